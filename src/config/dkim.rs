//! The keys that sign a tenant's mails: `[[dkim]]` of its file.

use std::path::Path;

use super::reader::Section;
use super::secret::{self, Secret};
use super::tenant::Sender;
use crate::address::is_host_name;

/// An RSA and an Ed25519 key: one for every reader, one for those that know the newer kind (RFC 8463).
const MOST_KEYS: usize = 2;

/// One key and where its public half is published.
#[derive(Debug, Clone)]
pub struct Dkim {
    /// The signing domain: the sender's own or a parent of it. Lower case.
    pub domain: String,
    /// The name of the key within the domain.
    pub selector: String,
    /// The private key, PEM.
    pub key: Secret,
    /// The text of the published record, to compare the key with.
    pub dns: Option<String>,
}

/// Reads the keys. A relative path starts at `base`.
pub(super) fn read(root: &Section<'_>, base: &Path, sender: Option<&Sender>) -> Vec<Dkim> {
    let sections = root.sections("dkim");
    if sections.len() > MOST_KEYS {
        root.problem("dkim", format_args!("a mail is signed with at most {MOST_KEYS} keys"));
    }
    let mut keys: Vec<Dkim> = Vec::new();
    for section in sections {
        let Some(key) = key(&section, base, sender) else { continue };
        if keys.iter().any(|other| (&other.domain, &other.selector) == (&key.domain, &key.selector)) {
            section.problem("selector", "stands twice; each key has its own record");
        }
        keys.push(key);
    }
    keys
}

fn key(section: &Section<'_>, base: &Path, sender: Option<&Sender>) -> Option<Dkim> {
    let name = |key| {
        let name = section.required::<String>(key)?.to_ascii_lowercase();
        if !is_host_name(&name) {
            section.problem(key, format_args!("{name:?} is not labels parted by dots"));
        }
        Some(name)
    };
    let (domain, selector) = (name("domain"), name("selector"));
    let key = secret::load(section, "key", base);
    let dns = section.text("dns");
    section.finish();
    if let Some((domain, sender)) = domain.as_ref().zip(sender)
        && !vouches_for(domain, sender.address.domain())
    {
        section.problem(
            "domain",
            format_args!("{domain} is neither the domain of {} nor a parent of it", sender.address),
        );
    }
    if !section.names("key") {
        section.problem("key", "missing; the private key as { file = \"...\" } or { env = \"...\" }");
    }
    Some(Dkim { domain: domain?, selector: selector?, key: key?, dns })
}

/// RFC 7489, section 3.1.1: a signature counts for `From` when its domain is that of `From` or above it.
fn vouches_for(domain: &str, sender: &str) -> bool {
    let sender = sender.to_ascii_lowercase();
    sender == domain || sender.strip_suffix(domain).is_some_and(|below| below.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_vouches_for_itself_and_what_is_below() {
        let table = [
            ("example.com", "example.com", true),
            ("example.com", "Mail.Example.com", true),
            ("mail.example.com", "example.com", false),
            ("ample.com", "example.com", false),
            ("example.org", "example.com", false),
        ];
        for (domain, sender, counts) in table {
            assert_eq!(vouches_for(domain, sender), counts, "{domain} for {sender}");
        }
    }
}
