//! What arrived at a relay, against what should have; the measurements in `benches` judge by it too.

use std::collections::{HashMap, HashSet};
use std::fmt;

use aftercall::sink::Received;

/// Asks a store's database for the Message-ID of every mail with an attempt that the log calls uncertain.
pub(crate) const UNCERTAIN: &str = "SELECT DISTINCT d.message_id FROM attempts a JOIN deliveries d ON d.id = a.delivery \
                                    WHERE a.outcome = 'uncertain'";

/// What came of sessions that each make one mail.
pub(crate) struct Arrivals {
    sessions: usize,
    arrived: usize,
    doubled: usize,
    unmarked: usize,
    altered: usize,
    uncertain: usize,
}

impl Arrivals {
    /// Counts mails by their Message-ID; `uncertain` is what [`UNCERTAIN`] found.
    pub(crate) fn count(received: &[Received], sessions: usize, uncertain: &HashSet<String>) -> Self {
        let mut copies: HashMap<&str, Vec<&Received>> = HashMap::new();
        for mail in received {
            let text = std::str::from_utf8(&mail.message).unwrap_or_default();
            let id = text.split("Message-ID: <").nth(1).and_then(|rest| rest.split('>').next());
            // Mails without a name count as one, which is one too many.
            copies.entry(id.unwrap_or_default()).or_default().push(mail);
        }
        let is_altered = |copies: &[&Received]| copies.iter().any(|copy| copy.message != copies[0].message);
        let doubled = || copies.iter().filter(|(_, copies)| copies.len() > 1);
        Self {
            sessions,
            arrived: copies.len(),
            doubled: doubled().count(),
            unmarked: doubled().filter(|(id, _)| !uncertain.contains(**id)).count(),
            altered: doubled().filter(|(_, copies)| is_altered(copies)).count(),
            uncertain: uncertain.len(),
        }
    }

    /// Whether nothing is lost, and nothing doubled without a mark or with other bytes.
    pub(crate) fn is_sound(&self) -> bool {
        self.arrived == self.sessions && self.unmarked == 0 && self.altered == 0
    }
}

impl fmt::Display for Arrivals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sessions, arrived, doubled, unmarked, altered, uncertain } = self;
        write!(
            f,
            "{arrived} of {sessions} sessions arrived, {} lost, {doubled} more than once, of these {unmarked} without \
             an uncertain attempt in the log and {altered} with other bytes; {uncertain} mails uncertain",
            sessions.saturating_sub(*arrived)
        )
    }
}
