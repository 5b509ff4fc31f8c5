//! What follows a mail that came back, by the tenant's policy.
//!
//! Pure. How much a mail may do depends on its proof: a report is believed when it knows the envelope, an answer of
//! the CRM when it knows the message and comes from where the CRM answers, a person's reply when it went to an address
//! that only the update's reader was given. Everything else is kept and shown, and changes nothing.

use crate::address::Address;
use crate::classify::reason::Group;
use crate::classify::verdict::{Action, Kind, Recipient, Sub, Verdict};
use crate::config::reactions::Reactions;
use crate::correlate::Proof;
use crate::parse::Mail;

/// A mail that passed so many servers runs in a circle (RFC 5321, section 6.3).
const MOST_HOPS: usize = 50;

/// The delivery that a mail is about, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// The ticket that the update went to; none for one that was to open a ticket.
    pub ticket: Option<String>,
    /// The address that the update went to.
    pub recipient: String,
    /// Whether the session file was attached.
    pub has_attachment: bool,
    /// Whether another channel can take over.
    pub has_other_channel: bool,
    /// How often the same mail went out again after it had bounced.
    pub resent: u32,
    /// Whether something was done already about its not having arrived.
    pub is_settled: bool,
    /// Whether a later update of the session went out or waits.
    pub is_old: bool,
    /// Whether it is no update, but an alert or a forwarded reply.
    pub is_notice: bool,
}

/// Everything that the decision sees.
#[derive(Debug, Clone, Copy)]
pub struct Case<'c> {
    /// The mail.
    pub mail: &'c Mail,
    /// What it is.
    pub verdict: &'c Verdict,
    /// The delivery that it is about.
    pub about: &'c About,
    /// By what proof.
    pub proof: Proof,
    /// The tenant's policy.
    pub policy: &'c Reactions,
    /// The tenant's own address.
    pub own: &'c Address,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reaction {
    /// Nothing, for this reason.
    Note(&'static str),
    /// The same mail goes out again after a while.
    SendAgain,
    /// The update goes out again without the session file.
    SendSmaller,
    /// The update goes to another address.
    SendTo(Address),
    /// The update goes out on the other channel.
    UseOtherChannel,
    /// The update waits, for this reason, until a person lets it go.
    Hold(String),
    /// Nothing more goes to this address, for this reason.
    StopAddress(String, String),
    /// The session's ticket is this one.
    TakeTicket(String),
    /// A person is told.
    Alert(String),
    /// A person's words are handed on.
    Forward,
}

impl Reaction {
    /// The word in files and tables.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Note(_) => "noted",
            Self::SendAgain => "sent-again",
            Self::SendSmaller => "sent-smaller",
            Self::SendTo(_) => "sent-elsewhere",
            Self::UseOtherChannel => "other-channel",
            Self::Hold(_) => "held",
            Self::StopAddress(..) => "address-stopped",
            Self::TakeTicket(_) => "ticket-taken",
            Self::Alert(_) => "alerted",
            Self::Forward => "forwarded",
        }
    }

    /// Why, or what about.
    pub fn detail(&self) -> &str {
        match self {
            Self::Note(why) => why,
            Self::Hold(why) | Self::Alert(why) | Self::TakeTicket(why) => why,
            Self::SendTo(address) => address.as_str(),
            Self::StopAddress(address, _) => address,
            Self::SendAgain | Self::SendSmaller | Self::UseOtherChannel | Self::Forward => "",
        }
    }
}

/// What follows a mail that nothing ties to a delivery.
pub const UNMATCHED: Reaction = Reaction::Note("nothing ties it to a delivery");

/// Decides what follows a mail.
pub fn react(case: &Case<'_>) -> Vec<Reaction> {
    let Case { about, proof, .. } = *case;
    if about.is_notice {
        return vec![Reaction::Note("it is about a notice, not about an update")];
    }
    match (case.verdict.kind, case.verdict.sub) {
        (Kind::Bounce, _) | (Kind::ReadReceipt, Some(Sub::SieveReject)) => bounce(case),
        (Kind::Complaint, sub) => complaint(case, sub),
        (Kind::Acknowledgement, sub) => acknowledgement(case, sub),
        (Kind::Reply, _) => reply(case),
        (Kind::Challenge, _) if proof.is_of_an_address() => {
            vec![Reaction::Alert(format!("{} asks for a confirmation before it takes mail", about.recipient))]
        }
        (
            Kind::Delay
            | Kind::Delivered
            | Kind::Relayed
            | Kind::ReadReceipt
            | Kind::AutoReply
            | Kind::Challenge
            | Kind::Other,
            _,
        ) => vec![Reaction::Note("there is nothing to do")],
    }
}

fn bounce(case: &Case<'_>) -> Vec<Reaction> {
    let Case { about, proof, .. } = *case;
    if !proof.is_of_the_envelope() {
        return vec![Reaction::Note(
            "the report knows only the Message-ID, which readers of the ticket know too",
        )];
    }
    if about.is_settled {
        return vec![Reaction::Note("that it did not arrive was known")];
    }
    let failed = || case.verdict.recipients.iter().filter(|recipient| recipient.action == Action::Failed);
    let named = failed().find(|recipient| names(recipient, &about.recipient));
    let Some(recipient) = named.or_else(|| failed().next()) else {
        return vec![Reaction::Note("the report names nobody that failed")];
    };
    let is_hard = recipient.hard && named.is_some();
    let told = told(recipient);
    let alert = Reaction::Alert(format!("the mail to {} came back: {told}", about.recipient));
    let mut reactions = Vec::new();
    if is_hard && case.policy.fallback.is_none() {
        reactions.push(Reaction::StopAddress(about.recipient.to_ascii_lowercase(), told.clone()));
    }
    if about.is_old {
        reactions.push(Reaction::Note("a later update takes its place"));
        return reactions;
    }
    let next = match recipient.reason.group() {
        Group::Size if about.has_attachment => return vec![Reaction::SendSmaller],
        Group::Full | Group::Transient | Group::System | Group::Unknown | Group::Disabled
            if !is_hard && about.resent < case.policy.soft_times =>
        {
            return vec![Reaction::SendAgain];
        }
        _ => elsewhere(case, &told),
    };
    reactions.extend([next, alert]);
    reactions
}

/// The way that is left for an update that cannot reach its address.
fn elsewhere(case: &Case<'_>, told: &str) -> Reaction {
    let about = case.about;
    let other = case.policy.fallback.clone().filter(|other| !is_same(other.as_str(), &about.recipient));
    match other {
        Some(address) => Reaction::SendTo(address),
        None if about.has_other_channel => Reaction::UseOtherChannel,
        None => Reaction::Hold(format!("the mail came back: {told}")),
    }
}

fn complaint(case: &Case<'_>, sub: Option<Sub>) -> Vec<Reaction> {
    let about = case.about;
    if !case.proof.is_of_the_envelope() {
        return vec![Reaction::Note("the complaint does not know the envelope")];
    }
    let alert = |what: &str| Reaction::Alert(format!("{what} about the mail to {}", about.recipient));
    match sub {
        Some(Sub::NotSpam) => vec![Reaction::Note("there is nothing to do")],
        Some(Sub::AuthFailure) => {
            vec![alert("a server reports a failed authentication (SPF, DKIM or DMARC)")]
        }
        _ => {
            let address = about.recipient.to_ascii_lowercase();
            vec![Reaction::StopAddress(address, "a complaint came".to_owned()), alert("a complaint came")]
        }
    }
}

fn acknowledgement(case: &Case<'_>, sub: Option<Sub>) -> Vec<Reaction> {
    if !is_from_the_crm(case.mail, case.policy) {
        return vec![Reaction::Note("it looks like an answer of the CRM and comes from elsewhere")];
    }
    let got = case.verdict.ticket.as_deref();
    match (sub, case.about.ticket.as_deref(), got) {
        (Some(Sub::Refused), sent, _) => {
            let ticket = sent.map_or_else(String::new, |sent| format!(" for ticket {sent}"));
            vec![Reaction::Alert(format!("the CRM did not record the update{ticket}"))]
        }
        (_, None, Some(got)) => vec![Reaction::TakeTicket(got.to_owned())],
        (_, Some(sent), Some(got)) if sent != got => {
            vec![Reaction::Alert(format!("the update for ticket {sent} went into ticket {got}"))]
        }
        (Some(Sub::Opened), Some(sent), None) => {
            vec![Reaction::Alert(format!("the update for ticket {sent} opened a new ticket"))]
        }
        _ => vec![Reaction::Note("there is nothing to do")],
    }
}

fn reply(case: &Case<'_>) -> Vec<Reaction> {
    let headers = &case.mail.headers;
    let says = |name: &str, words: &[&str]| {
        let value = headers.get(name).unwrap_or_default().to_ascii_lowercase();
        words.iter().any(|word| value.starts_with(word))
    };
    let is_automatic = headers.get("auto-submitted").is_some_and(|value| !value.eq_ignore_ascii_case("no"));
    let is_list =
        headers.get("list-id").is_some() || says("precedence", &["bulk", "list", "junk", "auto_reply"]);
    let is_ours = headers.addresses("from").iter().any(|from| is_same(from, case.own.as_str()));
    // RFC 3834, section 2: whatever may be a program's is not handed on, so that nothing runs in a circle.
    if is_automatic || is_list || is_ours || headers.all("received").count() > MOST_HOPS {
        return vec![Reaction::Note("a program sent it, or it runs in a circle")];
    }
    if !case.proof.is_of_an_address() && !is_from_the_crm(case.mail, case.policy) {
        return vec![Reaction::Note("it names a mail of ours and comes from elsewhere")];
    }
    if case.policy.forward.is_none() && case.policy.webhook.is_none() {
        return vec![Reaction::Note("the tenant has nobody to hand replies to")];
    }
    vec![Reaction::Forward]
}

/// What the report says of a recipient, for people.
fn told(recipient: &Recipient) -> String {
    let status = recipient.status.as_deref().map(|status| format!("{status} ")).unwrap_or_default();
    let text: String = recipient.text.chars().take(300).collect();
    format!("{status}{} {text}", recipient.reason.as_str()).trim_end().to_owned()
}

/// Whether the report is about the address that was written to.
fn names(recipient: &Recipient, address: &str) -> bool {
    let original = recipient.original.as_deref();
    is_same(&recipient.address, address) || original.is_some_and(|original| is_same(original, address))
}

fn is_same(one: &str, other: &str) -> bool {
    one.eq_ignore_ascii_case(other)
}

/// Whether the mail comes from where the CRM answers, and the tenant's own server vouches for that where it is asked to.
fn is_from_the_crm(mail: &Mail, policy: &Reactions) -> bool {
    let from = mail.headers.addresses("from");
    let [from] = from[..] else { return false };
    let domain = from.rsplit_once('@').map_or("", |(_, domain)| domain).to_ascii_lowercase();
    let is_listed = |sender: &String| match sender.contains('@') {
        true => is_same(sender, from),
        false => is_same(sender, &domain) || domain.ends_with(&format!(".{}", sender.to_ascii_lowercase())),
    };
    let vouches = policy.authentication.as_ref().is_none_or(|server| vouches(mail, server, &domain));
    policy.senders.iter().any(is_listed) && vouches
}

/// Whether a server's `Authentication-Results` (RFC 8601) says that the domain sent the mail: by DMARC, or by a
/// signature of the domain or of one above it. The first field of that server counts: those below may be forged.
fn vouches(mail: &Mail, server: &str, domain: &str) -> bool {
    let mut fields = mail.headers.all("authentication-results");
    let of_server = |value: &&str| {
        let id = value.split([';', ' ', '\t']).next().unwrap_or_default();
        is_same(id, server)
    };
    let Some(field) = fields.find(of_server) else { return false };
    let is_of_domain = |word: &str| {
        let word = word.trim_matches(['"', '@']).to_ascii_lowercase();
        word.contains('.') && (word == domain || domain.ends_with(&format!(".{word}")))
    };
    field.split(';').skip(1).any(|result| {
        let words: Vec<String> = result.split_whitespace().map(str::to_ascii_lowercase).collect();
        let value = |key: &str| words.iter().find_map(|word| word.strip_prefix(key));
        match words.first().map(String::as_str) {
            Some("dmarc=pass") => value("header.from=").is_some_and(is_of_domain),
            Some("dkim=pass") => value("header.d=").is_some_and(is_of_domain),
            _ => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;
    use crate::classify::classify;
    use crate::classify::rules::Rules;
    use crate::config::marks::{Answer, Mark};
    use crate::parse::parse;

    fn policy() -> Reactions {
        Reactions {
            soft_wait: SignedDuration::from_hours(1),
            soft_times: 2,
            fallback: None,
            alert: None,
            forward: Some("agents@example.com".parse().unwrap()),
            senders: vec!["crm.example.com".to_owned()],
            authentication: None,
            webhook: None,
        }
    }

    fn about() -> About {
        About {
            ticket: Some("7".to_owned()),
            recipient: "Support@crm.example.com".to_owned(),
            has_attachment: true,
            has_other_channel: false,
            resent: 0,
            is_settled: false,
            is_old: false,
            is_notice: false,
        }
    }

    fn report(address: &str, status: &str, text: &str) -> String {
        format!(
            "From: MAILER-DAEMON@mx.example.net\nContent-Type: multipart/report; report-type=delivery-status; boundary=b\n\n\
             --b\n\nIt could not be delivered.\n--b\nContent-Type: message/delivery-status\n\n\
             Reporting-MTA: dns; mx.example.net\n\nFinal-Recipient: rfc822; {address}\nAction: failed\n\
             Status: {status}\nDiagnostic-Code: smtp; {text}\n\n--b--\n"
        )
    }

    /// The words for what follows a mail.
    fn follows(mail: &str, about: &About, proof: Proof, policy: &Reactions) -> Vec<&'static str> {
        let pattern = |text: &str| Some(text.parse().unwrap());
        let mark = |answer, subject| Mark {
            answer,
            subject: pattern(subject),
            from: None,
            header: None,
            text: None,
        };
        let marks = [
            mark(Answer::Opened, r"^\[#(?<ticket>\d+)\] opened"),
            mark(Answer::Updated, r"^\[#(?<ticket>\d+)\] updated"),
            mark(Answer::Refused, "^not recorded"),
        ];
        let mail = parse(mail.as_bytes());
        let verdict = classify(&mail, Rules::shipped(), &marks);
        let own = "bridge@acme.example.com".parse().unwrap();
        let case = Case { mail: &mail, verdict: &verdict, about, proof, policy, own: &own };
        react(&case).iter().map(Reaction::as_str).collect()
    }

    #[test]
    fn a_bounce_is_answered_by_its_reason_by_what_was_done_and_by_what_is_left_to_do() {
        let hard = report("support@crm.example.com", "5.1.1", "550 5.1.1 No such user");
        let full = report("support@crm.example.com", "4.2.2", "452 4.2.2 Mailbox full");
        let big = report("support@crm.example.com", "5.3.4", "552 5.3.4 Message too big");
        let spam = report("support@crm.example.com", "5.7.1", "554 5.7.1 Message is spam");
        let other = report("list-member@elsewhere.example", "5.1.1", "550 5.1.1 No such user");
        let plain = about();
        let fallback = Reactions { fallback: Some("second@crm.example.com".parse().unwrap()), ..policy() };
        let own = Reactions { fallback: Some("support@crm.example.com".parse().unwrap()), ..policy() };
        let (old, settled) = (About { is_old: true, ..about() }, About { is_settled: true, ..about() });
        let both = About { has_other_channel: true, ..about() };
        let (bare, tired) = (About { has_attachment: false, ..about() }, About { resent: 2, ..about() });
        let table: [(&str, &About, &Reactions, &[&str]); 14] = [
            (&hard, &plain, &policy(), &["address-stopped", "held", "alerted"]),
            (&hard, &both, &policy(), &["address-stopped", "other-channel", "alerted"]),
            (&hard, &plain, &fallback, &["sent-elsewhere", "alerted"]),
            (&hard, &plain, &own, &["held", "alerted"]),
            (&hard, &old, &policy(), &["address-stopped", "noted"]),
            (&hard, &settled, &policy(), &["noted"]),
            // Somebody behind the address failed: that says nothing of the address itself.
            (&other, &plain, &policy(), &["held", "alerted"]),
            (&full, &plain, &policy(), &["sent-again"]),
            (&full, &tired, &policy(), &["held", "alerted"]),
            (&full, &old, &policy(), &["noted"]),
            (&big, &plain, &policy(), &["sent-smaller"]),
            (&big, &bare, &policy(), &["held", "alerted"]),
            (&spam, &plain, &policy(), &["held", "alerted"]),
            (&spam, &plain, &fallback, &["sent-elsewhere", "alerted"]),
        ];
        for (at, (mail, about, policy, expected)) in table.into_iter().enumerate() {
            assert_eq!(follows(mail, about, Proof::EnvelopeSender, policy), expected, "line {}", at + 1);
        }
    }

    #[test]
    fn a_report_needs_a_proof_of_the_envelope() {
        let hard = report("support@crm.example.com", "5.1.1", "550 5.1.1 No such user");
        let all = [
            (Proof::Hand, true),
            (Proof::EnvelopeSender, true),
            (Proof::EnvelopeId, true),
            (Proof::ReturnedSender, true),
            (Proof::ReplyTo, false),
            (Proof::ReturnedMessageId, false),
            (Proof::OriginalMessageId, false),
            (Proof::Thread, false),
            (Proof::Subject, false),
        ];
        for (proof, is_believed) in all {
            let followed = follows(&hard, &about(), proof, &policy());
            assert_eq!(followed != ["noted"], is_believed, "{proof:?}: {followed:?}");
        }
    }

    #[test]
    fn an_answer_of_the_crm_is_compared_with_what_was_sent() {
        let (known, none) = (about(), About { ticket: None, ..about() });
        let table = [
            ("[#7] updated", &known, "noted"),
            ("[#7] opened", &known, "noted"),
            ("[#8] opened", &known, "alerted"),
            ("[#8] updated", &known, "alerted"),
            ("not recorded", &known, "alerted"),
            ("[#8] opened", &none, "ticket-taken"),
        ];
        for (subject, about, expected) in table {
            let mail =
                |from: &str| format!("From: {from}\nSubject: {subject}\nAuto-Submitted: auto-replied\n\nx\n");
            let from = |from: &str| follows(&mail(from), about, Proof::Thread, &policy());
            assert_eq!(from("rt@crm.example.com"), [expected], "{subject}");
            assert_eq!(from("rt@help.crm.example.com"), [expected], "{subject}");
            assert_eq!(from("rt@crm.example.com.evil.example"), ["noted"], "{subject}");
            assert_eq!(from("rt@evilcrm.example.com"), ["noted"], "{subject}");
        }
    }

    #[test]
    fn a_report_that_a_caller_wrote_into_an_update_is_no_report_when_the_crm_quotes_it() {
        let mail = "From: rt@crm.example.com\nSubject: not recorded: Call 7\n\nYour mail:\n\n\
                    Final-Recipient: rfc822; support@crm.example.com\nAction: failed\nStatus: 5.1.1\n";
        assert_eq!(follows(mail, &about(), Proof::ReturnedSender, &policy()), ["alerted"]);
    }

    #[test]
    fn a_server_vouches_in_its_first_field_and_for_its_own_name() {
        let vouched = |fields: &str| {
            let mail = parse(format!("{fields}From: rt@help.crm.example.com\n\nx").as_bytes());
            vouches(&mail, "mx.example.com", "help.crm.example.com")
        };
        let field = |server: &str, words: &str| format!("Authentication-Results: {server}; {words}\n");
        for words in [
            "dmarc=pass header.from=crm.example.com",
            "spf=fail; dkim=pass header.d=help.crm.example.com header.s=x",
            "DMARC=Pass (p=reject) header.from=Crm.Example.Com",
        ] {
            assert!(vouched(&field("mx.example.com", words)), "{words}");
            assert!(!vouched(&field("mx.evil.example", words)), "{words}");
            assert!(
                !vouched(&(field("mx.example.com", "none") + &field("mx.example.com", words))),
                "{words}"
            );
        }
        for words in [
            "none",
            "spf=pass smtp.mailfrom=crm.example.com",
            "dkim=pass header.d=com",
            "dkim=pass header.d=evil.example",
            "dmarc=fail header.from=crm.example.com",
        ] {
            assert!(!vouched(&field("mx.example.com", words)), "{words}");
        }
    }

    #[test]
    fn what_a_program_sent_is_never_handed_on() {
        let reply = |more: &str| {
            format!("From: jo@elsewhere.example\nSubject: Re: x\nIn-Reply-To: <x@y>\n{more}\nHello.\n")
        };
        let follows = |more: &str, proof| follows(&reply(more), &about(), proof, &policy());
        assert_eq!(follows("", Proof::ReplyTo), ["forwarded"]);
        assert_eq!(follows("Auto-Submitted: no\n", Proof::ReplyTo), ["forwarded"]);
        assert_eq!(follows("", Proof::Thread), ["noted"], "a stranger who knows the thread");
        for more in [
            "List-Id: <l.example>\n",
            "Precedence: list\n",
            "Precedence: bulk\n",
            "Auto-Submitted: auto-generated\n",
        ] {
            assert_eq!(follows(more, Proof::ReplyTo), ["noted"], "{more}");
        }
        assert_eq!(follows(&"Received: from a by b\n".repeat(MOST_HOPS + 1), Proof::ReplyTo), ["noted"]);
    }
}
