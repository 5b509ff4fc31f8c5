//! The time of day, asked in one place so that tests can set it.

use std::sync::{Arc, Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};

/// Where the present moment comes from.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    /// The moment that a test has set; the system's time when there is none.
    fixed: Option<Arc<Mutex<Timestamp>>>,
}

impl Clock {
    /// A clock that stands at `now` until it is moved.
    pub fn fixed(now: Timestamp) -> Self {
        Self { fixed: Some(Arc::new(Mutex::new(now))) }
    }

    /// The present moment.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that asks the system")]
    pub fn now(&self) -> Timestamp {
        match &self.fixed {
            Some(at) => *at.lock().unwrap_or_else(PoisonError::into_inner),
            None => Timestamp::now(),
        }
    }

    /// Moves a fixed clock on by `step`; a system clock does not move by hand.
    pub fn advance(&self, step: SignedDuration) {
        if let Some(at) = &self.fixed {
            let mut at = at.lock().unwrap_or_else(PoisonError::into_inner);
            *at = at.saturating_add(step).unwrap_or(Timestamp::MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fixed_clock_moves_only_when_told_and_for_all_its_holders() {
        let clock = Clock::fixed(Timestamp::UNIX_EPOCH);
        let held_elsewhere = clock.clone();
        assert_eq!(clock.now(), clock.now());
        clock.advance(SignedDuration::from_secs(90));
        assert_eq!(held_elsewhere.now().as_second(), 90);
    }
}
