//! Which delivery a mail that came back is about, and by what proof.
//!
//! A proof is a signed token, at one of the places where a token comes back. Who holds the token of one place may
//! not know that of another ([`crate::token`]), so the place says how much a mail is to be believed.

use serde::{Deserialize, Serialize};

use crate::address::Address;
use crate::ids::{SessionKey, SessionName};
use crate::parse::Mail;
use crate::token::{Place, TokenKey, body_of};

/// The most texts of one mail that are looked at for tokens.
const MOST_CANDIDATES: usize = 100;

/// What ties a mail to a delivery, strongest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Proof {
    /// A person said so.
    Hand,
    /// The mail went to the envelope sender of the delivery.
    EnvelopeSender,
    /// A report names the delivery's envelope id (RFC 3464, section 2.2.1).
    EnvelopeId,
    /// A report or a returned header names the delivery's envelope sender.
    ReturnedSender,
    /// The mail went to the address of the delivery's `Reply-To`.
    ReplyTo,
    /// The returned header has the delivery's Message-ID.
    ReturnedMessageId,
    /// A receipt names the delivery's Message-ID (RFC 8098, section 3.2.5).
    OriginalMessageId,
    /// `In-Reply-To` or `References` has the delivery's Message-ID.
    Thread,
    /// The subject has the delivery's token.
    Subject,
}

impl Proof {
    /// The word in files and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hand => "hand",
            Self::EnvelopeSender => "envelope-sender",
            Self::EnvelopeId => "envelope-id",
            Self::ReturnedSender => "returned-sender",
            Self::ReplyTo => "reply-to",
            Self::ReturnedMessageId => "returned-message-id",
            Self::OriginalMessageId => "original-message-id",
            Self::Thread => "thread",
            Self::Subject => "subject",
        }
    }

    /// Whether only servers on the delivery's way, and who reads their headers, can have it: enough to believe a
    /// report about the delivery.
    pub fn is_of_the_envelope(self) -> bool {
        self <= Self::ReturnedSender
    }

    /// Whether it was given to the CRM for its answers alone.
    pub fn is_of_an_address(self) -> bool {
        self <= Self::ReplyTo
    }
}

/// One whose tokens may come back.
#[derive(Debug, Clone, Copy)]
pub struct Signatory<'s> {
    /// The tenant's name.
    pub tenant: &'s str,
    /// Its platform instance.
    pub instance: &'s str,
    /// The mailbox that its bounces and replies come to, without a token.
    pub mailbox: &'s Address,
    /// The domain of its Message-IDs.
    pub domain: &'s str,
    /// Its keys.
    pub keys: &'s [TokenKey],
}

/// One token that was found and is genuine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Where.
    pub proof: Proof,
    /// Whose session.
    pub session: SessionKey,
    /// What the token says before its MAC; all tokens of a delivery say the same.
    pub body: String,
}

/// The genuine tokens of a mail, strongest proof first, each delivery once for a proof. `recipient` is the envelope's,
/// where it is known. A tenant's token counts only where that tenant's mail comes back: at its mailbox, under its domain.
pub fn correlate(mail: &Mail, recipient: Option<&str>, signatories: &[Signatory<'_>]) -> Vec<Found> {
    let to: Vec<&str> = recipient.into_iter().chain(mail.delivered_to()).collect();
    let mut found = Vec::<Found>::new();
    for (proof, text) in candidates(mail, &to).into_iter().take(MOST_CANDIDATES) {
        let genuine = signatories.iter().find_map(|who| Some((who, who.read(proof, text, &to)?)));
        let Some((who, (name, body))) = genuine else { continue };
        let session = SessionKey { tenant: who.tenant.to_owned(), instance: who.instance.to_owned(), name };
        let one = Found { proof, session, body };
        if !found.contains(&one) {
            found.push(one);
        }
    }
    found.sort_by_key(|one| one.proof);
    found
}

impl Signatory<'_> {
    /// The session and the body of a token in `text`, if it is this tenant's and stands where its tokens stand.
    fn read(&self, proof: Proof, text: &str, to: &[&str]) -> Option<(SessionName, String)> {
        let is_here = || to.iter().any(|address| self.has(address));
        let (token, place) = match proof {
            Proof::EnvelopeSender | Proof::ReturnedSender => (self.tag(text)?, Place::EnvelopeSender),
            Proof::ReplyTo => (self.tag(text)?, Place::ReplyTo),
            // A report goes to the envelope's sender, so it comes to this tenant's mailbox.
            Proof::EnvelopeId if is_here() => (text, Place::EnvelopeSender),
            Proof::Subject if is_here() => (text, Place::MessageId),
            Proof::ReturnedMessageId | Proof::OriginalMessageId | Proof::Thread => {
                let (token, domain) = text.rsplit_once('@')?;
                (domain.eq_ignore_ascii_case(self.domain).then_some(token)?, Place::MessageId)
            }
            Proof::EnvelopeId | Proof::Subject | Proof::Hand => return None,
        };
        let name = self.keys.iter().find_map(|key| key.verify(token, self.instance, place))?;
        Some((name, body_of(token)))
    }

    /// What stands behind the mailbox's own name and a `+` in one of its addresses.
    fn tag<'t>(&self, address: &'t str) -> Option<&'t str> {
        let (local, domain) = address.rsplit_once('@')?;
        let own = self.mailbox.local();
        let is_own = local.get(..own.len()).is_some_and(|start| start.eq_ignore_ascii_case(own));
        let is_here = is_own && domain.eq_ignore_ascii_case(self.mailbox.domain());
        local.get(own.len()..).filter(|_| is_here)?.strip_prefix('+')
    }

    /// Whether an address is the mailbox, with or without a tag.
    fn has(&self, address: &str) -> bool {
        address.eq_ignore_ascii_case(self.mailbox.as_str()) || self.tag(address).is_some()
    }
}

/// The texts of a mail that may hold tokens, each with what it would prove.
fn candidates<'m>(mail: &'m Mail, to: &[&'m str]) -> Vec<(Proof, &'m str)> {
    let mut all = Vec::new();
    let mut add = |proof, texts: Vec<&'m str>| all.extend(texts.into_iter().map(|text| (proof, text)));
    add(Proof::EnvelopeSender, to.to_vec());
    add(Proof::ReplyTo, to.to_vec());
    let reports = mail.reports.iter().filter_map(|report| report.envelope_id.as_deref());
    let feedback = mail.feedback.as_ref();
    let complaint = feedback.and_then(|feedback| feedback.envelope_id.as_deref());
    add(Proof::EnvelopeId, reports.chain(complaint).collect());
    let returned = mail.returned.as_ref();
    let senders = returned.map(|header| header.addresses("return-path")).unwrap_or_default();
    let sender = feedback.and_then(|feedback| feedback.sender.as_deref());
    add(Proof::ReturnedSender, sender.into_iter().chain(senders).collect());
    let provider = mail.provider.as_ref().and_then(|notice| notice.message_id.as_deref());
    add(
        Proof::ReturnedMessageId,
        returned.and_then(|header| header.message_id()).into_iter().chain(provider).collect(),
    );
    let receipt = mail.disposition.as_ref().and_then(|receipt| receipt.original_message_id.as_deref());
    add(Proof::OriginalMessageId, receipt.into_iter().collect());
    add(
        Proof::Thread,
        ["in-reply-to", "references"].into_iter().flat_map(|name| mail.headers.ids(name)).collect(),
    );
    let subjects = [mail.headers.get("subject"), returned.and_then(|header| header.get("subject"))];
    let words = subjects.into_iter().flatten().flat_map(|subject| subject.split(|c: char| !is_of_a_token(c)));
    add(Proof::Subject, words.filter(|word| body_of(word) != *word).collect());
    all
}

fn is_of_a_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-'
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Digest, Kind};
    use crate::parse::parse;

    fn session(number: u64) -> SessionKey {
        let name = SessionName { kind: Kind::Call, number };
        SessionKey { tenant: "acme".into(), instance: "acme-eu".into(), name }
    }

    fn token(tenant: &str, number: u64, place: Place) -> String {
        TokenKey::new(b"secret", tenant).sign(&session(number), &Digest::of(b"x"), place)
    }

    /// The proofs that a mail gives, with the session's number.
    fn proofs(mail: &str, recipient: Option<&str>) -> Vec<(Proof, u64)> {
        let mail = mail
            .replace("ENVELOPE", &token("acme", 7, Place::EnvelopeSender))
            .replace("REPLY", &token("acme", 7, Place::ReplyTo))
            .replace("MESSAGE", &token("acme", 7, Place::MessageId))
            .replace("OTHER", &token("acme", 8, Place::MessageId))
            .replace("FOREIGN", &token("globex", 7, Place::MessageId));
        let recipient = recipient.map(|recipient| {
            recipient.replace("ENVELOPE", &token("acme", 7, Place::EnvelopeSender).to_uppercase())
        });
        let keys = [TokenKey::new(b"new", "acme"), TokenKey::new(b"secret", "acme")];
        let mailbox = "bridge@example.com".parse().unwrap();
        let acme = Signatory {
            tenant: "acme",
            instance: "acme-eu",
            mailbox: &mailbox,
            domain: "example.com",
            keys: &keys,
        };
        let found = correlate(&parse(mail.as_bytes()), recipient.as_deref(), &[acme]);
        found.into_iter().map(|found| (found.proof, found.session.name.number)).collect()
    }

    #[test]
    fn each_place_of_a_token_is_a_proof_of_its_own() {
        let report = |fields: &str| {
            format!(
                "Content-Type: multipart/report; report-type=delivery-status; boundary=b\n\n--b\n\nFailed.\n--b\n\
                 Content-Type: message/delivery-status\n\n{fields}\n\nFinal-Recipient: rfc822; a@example.com\n\
                 Action: failed\nStatus: 5.1.1\n\n--b--\n"
            )
        };
        let table = [
            ("To: bridge+ENVELOPE@example.com\n\nx".to_owned(), Proof::EnvelopeSender),
            ("Delivered-To: bridge+ENVELOPE@example.com\n\nx".to_owned(), Proof::EnvelopeSender),
            (
                format!("To: bridge@example.com\n{}", report("Original-Envelope-Id: ENVELOPE")),
                Proof::EnvelopeId,
            ),
            ("To: bridge+REPLY@example.com\n\nx".to_owned(), Proof::ReplyTo),
            ("In-Reply-To: <MESSAGE@example.com>\n\nx".to_owned(), Proof::Thread),
            ("References: <a@b> <MESSAGE@example.com>\n\nx".to_owned(), Proof::Thread),
            ("To: bridge@example.com\nSubject: Re: [#7] Call 7 (MESSAGE)\n\nx".to_owned(), Proof::Subject),
        ];
        for (mail, proof) in table {
            assert_eq!(proofs(&mail, None), [(proof, 7)], "{mail}");
        }
        assert_eq!(proofs("\n\nx", Some("bridge+ENVELOPE@example.com")), [(Proof::EnvelopeSender, 7)]);
    }

    #[test]
    fn a_token_proves_nothing_at_another_place() {
        for mail in [
            "To: bridge+MESSAGE@example.com\n\nx",
            "To: bridge+ENVELOPEx@example.com\n\nx",
            "To: ENVELOPE@example.com\n\nx",
            "To: other+ENVELOPE@example.com\n\nx",
            "To: bridge+ENVELOPE@example.net\n\nx",
            "In-Reply-To: <MESSAGE@example.net>\n\nx",
            "In-Reply-To: <ENVELOPE@example.com>\n\nx",
            "In-Reply-To: <REPLY@example.com>\n\nx",
            "In-Reply-To: <FOREIGN@example.com>\n\nx",
            "Subject: REPLY\n\nMESSAGE",
        ] {
            assert_eq!(proofs(mail, None), [], "{mail}");
        }
    }

    #[test]
    fn proofs_that_disagree_are_all_told_strongest_first() {
        let mail = "References: <OTHER@example.com>\nTo: bridge+REPLY@example.com\n\nx";
        assert_eq!(proofs(mail, None), [(Proof::ReplyTo, 7), (Proof::Thread, 8)]);
    }
}
