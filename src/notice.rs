//! Mails to people about mails that came back: alerts, and the words of those who replied.
//!
//! They go out like every mail, with a token of their own, and tell other programs that nobody wants an answer.

use std::time::SystemTime;

use jiff::Timestamp;
use lettre::Message;
use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::message::{Mailbox, SinglePart};

use crate::address::Address;
use crate::compose::{ComposeError, Composed};
use crate::config::tenant::Tenant;
use crate::ids::{Digest, InboundId, SessionKey};
use crate::token::{Place, TokenKey};

/// The most characters of a subject.
const MOST_SUBJECT: usize = 120;

/// What a notice is made of.
#[derive(Debug)]
pub struct Notice<'n> {
    /// Which session it is about.
    pub session: &'n SessionKey,
    /// Which mail came back.
    pub inbound: InboundId,
    /// To whom.
    pub recipient: &'n Address,
    /// Who is answered by an answer; none for the tenant itself.
    pub reply_to: Option<&'n Address>,
    /// In one line.
    pub subject: &'n str,
    /// In full.
    pub text: &'n str,
}

/// Makes the mail.
pub fn compose(
    notice: &Notice<'_>,
    tenant: &Tenant,
    key: &TokenKey,
    now: Timestamp,
) -> Result<Composed, ComposeError> {
    let recipient = notice.recipient.clone();
    let of = Digest::of_parts(&[b"notice", &notice.inbound.0.to_be_bytes(), recipient.as_str().as_bytes()]);
    let token = |place| key.sign(notice.session, &of, place);
    let message_id = format!("{}@{}", token(Place::MessageId), tenant.sender.address.domain());
    let envelope_from = tenant.sender.bounces.tagged(&token(Place::EnvelopeSender))?;
    let message = message(notice, tenant, &message_id, now)
        .map_err(|source| ComposeError::Message { recipient: recipient.clone(), source })?;
    Ok(Composed { message_id, envelope_from, recipient, wire: message.formatted(), tail: None })
}

fn message(
    notice: &Notice<'_>,
    tenant: &Tenant,
    message_id: &str,
    now: Timestamp,
) -> Result<Message, Box<dyn std::error::Error + Send + Sync>> {
    let mailbox =
        |name: Option<&String>, address: &Address| -> Result<Mailbox, lettre::address::AddressError> {
            Ok(Mailbox::new(name.cloned(), address.as_str().parse()?))
        };
    let mut builder = Message::builder()
        .from(mailbox(tenant.sender.name.as_ref(), &tenant.sender.address)?)
        .to(mailbox(None, notice.recipient)?)
        .subject(one_line(notice.subject))
        .date(SystemTime::from(now))
        .message_id(Some(format!("<{message_id}>")));
    if let Some(address) = notice.reply_to {
        builder = builder.reply_to(mailbox(None, address)?);
    }
    // RFC 3834, section 5.
    for (name, value) in [("Auto-Submitted", "auto-generated"), ("X-Auto-Response-Suppress", "All")] {
        let name = HeaderName::new_from_ascii(name.to_owned())?;
        builder = builder.raw_header(HeaderValue::new(name, value.to_owned()));
    }
    let text: String = notice.text.chars().filter(|c| *c == '\n' || !c.is_control()).collect();
    let body = SinglePart::builder().header(ContentType::TEXT_PLAIN).body(text);
    Ok(builder.singlepart(body)?)
}

/// Text from mails, fit for a header.
fn one_line(text: &str) -> String {
    let clean = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    clean.take(MOST_SUBJECT).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_of_a_mail_breaks_out_of_the_subject() {
        assert_eq!(one_line("Re: x\r\nBcc: all@example.com\n"), "Re: x  Bcc: all@example.com");
        assert_eq!(one_line(&"ä".repeat(500)).chars().count(), MOST_SUBJECT);
    }
}
