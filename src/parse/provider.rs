//! Notices in a form of a provider's own: Amazon SES tells bounces, complaints and deliveries in JSON, alone or
//! wrapped by SNS, in the text of a mail.

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::headers::bare_id;

/// The most octets of JSON that are read.
const MAX_JSON_OCTETS: usize = 256 << 10;

/// What a notice is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A message did not arrive.
    Bounce,
    /// A recipient complained.
    Complaint,
    /// A message arrived.
    Delivery,
    /// A message is late.
    Delay,
}

/// A provider's notice.
#[derive(Debug, Clone)]
pub struct ProviderNotice {
    /// What it is about.
    pub event: Event,
    /// Whether the provider calls the failure permanent.
    pub permanent: bool,
    /// The provider's finer word, such as `General` or `MailboxFull`.
    pub detail: String,
    /// Whom it is about.
    pub recipients: Vec<ProviderRecipient>,
    /// The Message-ID of the message, without angle brackets.
    pub message_id: Option<String>,
}

/// One recipient in a notice.
#[derive(Debug, Clone, Default)]
pub struct ProviderRecipient {
    /// The address.
    pub address: String,
    /// `failed`, `delayed`, ...
    pub action: Option<String>,
    /// The enhanced status code.
    pub status: Option<String>,
    /// The other server's words.
    pub diagnostic: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Notice {
    #[serde(alias = "eventType")]
    notification_type: String,
    #[serde(alias = "complaint", alias = "delivery", alias = "deliveryDelay")]
    bounce: Option<Body>,
    mail: Option<Sent>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Body {
    bounce_type: String,
    bounce_sub_type: String,
    #[serde(alias = "complainedRecipients", alias = "delayedRecipients")]
    bounced_recipients: Vec<Whom>,
    /// Addresses alone, where a message arrived.
    recipients: Vec<String>,
    smtp_response: Option<String>,
    complaint_feedback_type: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Whom {
    email_address: String,
    action: Option<String>,
    status: Option<String>,
    diagnostic_code: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Sent {
    message_id: Option<String>,
    common_headers: Option<Common>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Common {
    message_id: Option<String>,
}

/// The envelope of SNS, with the notice as a string within.
#[derive(Deserialize)]
struct Wrapped {
    #[serde(rename = "Message")]
    message: String,
}

/// Reads the notice that a text holds, if it holds one.
pub(super) fn read(text: &str) -> Option<ProviderNotice> {
    let is_likely = |name| memchr::memmem::find(text.as_bytes(), name).is_some();
    if !is_likely(b"notificationType") && !is_likely(b"eventType") {
        return None;
    }
    let json = text.get(text.find('{')?..)?;
    let json = super::headers::cut(json, MAX_JSON_OCTETS);
    let wrapped = |json: &str| first::<Wrapped>(json).and_then(|wrapped| first::<Notice>(&wrapped.message));
    let joined = || Some(unwrapped(json)).and_then(|json| first::<Notice>(&json).or_else(|| wrapped(&json)));
    first::<Notice>(json).or_else(|| wrapped(json)).or_else(joined).map(made)
}

/// The first value of a text; what stands behind it, such as the footer of SNS, is let be.
fn first<T: DeserializeOwned>(json: &str) -> Option<T> {
    serde_json::Deserializer::from_str(json).into_iter::<T>().next()?.ok()
}

/// JSON that a mail program broke into lines within its strings.
fn unwrapped(json: &str) -> String {
    // SNS breaks lines behind an exclamation mark, as old mail programs did.
    json.replace("!\r\n ", "").replace("!\n ", "").replace("\r\n", "").replace('\n', "")
}

fn made(notice: Notice) -> ProviderNotice {
    let body = notice.bounce.unwrap_or_default();
    let event = match notice.notification_type.as_str() {
        "Complaint" => Event::Complaint,
        "Delivery" => Event::Delivery,
        "DeliveryDelay" => Event::Delay,
        _ => Event::Bounce,
    };
    let whom = body.bounced_recipients.into_iter().map(|whom| ProviderRecipient {
        address: whom.email_address,
        action: whom.action.map(|action| action.to_ascii_lowercase()),
        status: whom.status,
        diagnostic: whom.diagnostic_code,
    });
    let plain = body.recipients.into_iter().map(|address| ProviderRecipient {
        address,
        diagnostic: body.smtp_response.clone(),
        ..ProviderRecipient::default()
    });
    let sent = notice.mail.unwrap_or_default();
    let id = sent.common_headers.and_then(|headers| headers.message_id).or(sent.message_id);
    ProviderNotice {
        event,
        permanent: body.bounce_type.eq_ignore_ascii_case("permanent"),
        detail: body.complaint_feedback_type.unwrap_or(body.bounce_sub_type),
        recipients: whom.chain(plain).take(super::MAX_RECIPIENTS).collect(),
        message_id: id.map(|id| bare_id(&id).to_owned()),
    }
}
