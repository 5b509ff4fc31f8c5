//! What is read of a CRM's answer: bounded, printable, and never believed to be more than it is.

use std::error::Error as _;

use jiff::fmt::rfc2822;
use jiff::{SignedDuration, Timestamp};
use reqwest::Response;
use reqwest::header::RETRY_AFTER;
use serde_json::Value;

use crate::config::recipe::Step;

/// The most octets of an answer.
const MAX_ANSWER: usize = 4 * 1024 * 1024;
/// The most characters of a CRM's words in the log.
const MAX_WORDS: usize = 300;

/// The error within an answer, and whether it is for later.
pub(super) fn error(step: &Step, body: &[u8]) -> Option<(bool, String)> {
    let at = step.error.as_ref()?;
    let answer: Value = serde_json::from_slice(body).ok()?;
    let words = match answer.pointer(at)? {
        Value::Null => return None,
        Value::String(words) => words.clone(),
        other => other.to_string(),
    };
    let is_later = |sign: &String| memchr::memmem::find(body, sign.as_bytes()).is_some();
    Some((step.error_later.iter().any(is_later), printable(words.as_bytes())))
}

/// The answer's octets as far as they came, and what broke them off.
pub(crate) async fn body(response: &mut Response) -> (Vec<u8>, Option<String>) {
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() <= MAX_ANSWER => body.extend_from_slice(&chunk),
            Ok(Some(_)) => return (body, Some(format!("the answer is longer than {MAX_ANSWER} octets"))),
            Ok(None) => return (body, None),
            Err(error) => return (body, Some(told(error))),
        }
    }
}

/// When the CRM wants to be asked again (RFC 9110, section 10.2.3): seconds, or a moment.
pub(crate) fn retry_after(response: &Response, now: Timestamp) -> Option<SignedDuration> {
    let text = response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u32>() {
        return Some(SignedDuration::from_secs(seconds.into()));
    }
    let moment = rfc2822::parse(text).ok()?.timestamp();
    Some(moment.duration_since(now)).filter(|wait| wait.is_positive())
}

/// A CRM's words: one line, bounded, without control characters.
pub(crate) fn printable(body: &[u8]) -> String {
    let start = &body[..body.len().min(MAX_WORDS * 8)];
    let text = String::from_utf8_lossy(start);
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    let line = words.collect::<Vec<_>>().join(" ");
    line.chars()
        .filter(|c| !matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'))
        .take(MAX_WORDS)
        .collect()
}

/// What went wrong on the way. The URL is left out: it may hold more than the host.
pub(crate) fn told(error: reqwest::Error) -> String {
    let error = error.without_url();
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    causes.fold(error.to_string(), |line, cause| format!("{line}: {cause}"))
}
