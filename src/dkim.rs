//! Signing a mail with the tenant's own keys (RFC 6376), so that its domain vouches for it whatever relay it takes.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use mail_auth::common::crypto::{DkimKey, Ed25519Key, RsaKey, Sha256, SigningKey};
use mail_auth::common::headers::{HeaderStream, Writable, Writer};
use mail_auth::common::parse::TxtRecordParser;
use mail_auth::common::verify::DomainKey;
use mail_auth::dkim::Signature;
use mail_auth::dkim::canonicalize::CanonicalHeaders;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{PrivateKeyDer, alg_id};

use crate::config::dkim::Dkim;

/// The fields that a signature covers (RFC 6376, section 5.4.1). One that a mail does not have is covered too: if
/// someone adds it, the signature no longer holds.
const FIELDS: [&str; 11] = [
    "From",
    "To",
    "Subject",
    "Date",
    "Message-ID",
    "Reply-To",
    "In-Reply-To",
    "References",
    "MIME-Version",
    "Content-Type",
    "Auto-Submitted",
];

/// Why a key cannot be used or a mail not be signed.
#[derive(Debug, thiserror::Error)]
pub enum DkimError {
    /// The file is not a private key in PEM.
    #[error("not a private key in PEM (PKCS#1 or PKCS#8)")]
    Pem(#[source] rustls_pki_types::pem::Error),
    /// The key is of a kind that mail does not know.
    #[error("neither an RSA nor an Ed25519 key that can be used: {0}")]
    Kind(mail_auth::Error),
    /// RFC 8301, section 3.2; what is shorter than 2048 bits is refused by us and by more and more readers.
    #[error("an RSA key needs 2048 bits or more")]
    Short,
    /// The record that is said to be published has another key, or none.
    #[error("the record in dns does not fit the key{reason}; the record that fits is {fits}")]
    Record {
        /// What the record lacks; empty for another key.
        reason: String,
        /// The record of this key.
        fits: String,
    },
    /// The mail could not be signed.
    #[error("the mail cannot be signed for {domain}")]
    Sign {
        /// The signing domain.
        domain: String,
        /// The reason.
        #[source]
        source: mail_auth::Error,
    },
}

/// One key, ready to sign.
pub struct Signer {
    key: DkimKey,
    /// The signature before it knows a mail.
    blank: Signature,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({}._domainkey.{})", self.blank.s, self.blank.d)
    }
}

impl Signer {
    /// Reads the key, and compares it with the published record where the configuration has its text.
    pub fn new(config: &Dkim) -> Result<Self, DkimError> {
        let key = private_key(config.key.expose())?;
        let blank = Signature {
            v: 1,
            a: key.algorithm(),
            d: config.domain.clone(),
            s: config.selector.clone(),
            h: FIELDS.map(str::to_owned).to_vec(),
            ..Signature::default() // Relaxed canonicalization of header and body; no expiry: a mail may wait for days.
        };
        let signer = Self { key, blank };
        if let Some(record) = &config.dns {
            signer.compare(record)?;
        }
        Ok(signer)
    }

    /// The text of the DNS record for this key (RFC 6376, section 3.6.1; RFC 8463, section 4.2).
    pub fn record(&self) -> String {
        let (kind, public) = match &self.key {
            DkimKey::Rsa(key) => {
                let key = rustls::sign::public_key_to_spki(&alg_id::RSA_ENCRYPTION, key.public_key());
                ("rsa", STANDARD.encode(key))
            }
            DkimKey::Ed25519(key) => ("ed25519", STANDARD.encode(key.public_key())),
        };
        format!("v=DKIM1; k={kind}; p={public}")
    }

    /// Signs a probe and lets the library's verifier judge it by the record.
    fn compare(&self, record: &str) -> Result<(), DkimError> {
        let wrong = |reason| DkimError::Record { reason, fits: self.record() };
        let unusable = |error: mail_auth::Error| wrong(format!(" ({error})"));
        let published = DomainKey::parse(record.as_bytes()).map_err(unusable)?;
        let probe: &[u8] = b"aftercall";
        let signature = self.key.sign(Octets(probe)).map_err(unusable)?;
        let verified = published.p.verify_bytes(probe, &signature, self.key.algorithm());
        verified.map_err(|_| wrong(String::new()))
    }

    /// The header field for a message: whole lines, CRLF. The same message and moment give the same octets.
    fn field(&self, wire: &[u8], now: Timestamp) -> Result<Vec<u8>, DkimError> {
        let (_, headers, mut covered, body) = self.blank.canonicalize(Message(wire));
        // RFC 6376, section 5.4.2: named once more than it stands there, no second From can be added.
        covered.push("From".to_owned());
        let mut signature = Signature {
            h: covered,
            bh: self.key.hash(body).as_ref().to_vec(),
            t: u64::try_from(now.as_second()).unwrap_or(0),
            ..self.blank.clone()
        };
        signature.b = self
            .key
            .sign(Signed { headers, signature: &signature })
            .map_err(|source| DkimError::Sign { domain: self.blank.d.clone(), source })?;
        let mut field = Vec::with_capacity(1024);
        signature.write(&mut field, true);
        Ok(field)
    }
}

/// Signs a message with every key. The signatures stand above it, in the order of the keys.
pub fn sign(signers: &[Signer], wire: Vec<u8>, now: Timestamp) -> Result<Vec<u8>, DkimError> {
    let mut signed = Vec::new();
    for signer in signers {
        signed.extend(signer.field(&wire, now)?);
    }
    signed.extend(wire);
    Ok(signed)
}

fn private_key(pem: &str) -> Result<DkimKey, DkimError> {
    let der = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(DkimError::Pem)?;
    // PKCS#8 holds either kind; its first version has no public half, as openssl writes it.
    if let PrivateKeyDer::Pkcs8(der) = &der
        && let Ok(key) = Ed25519Key::from_pkcs8_maybe_unchecked_der(der.secret_pkcs8_der())
    {
        return Ok(DkimKey::Ed25519(key));
    }
    match RsaKey::<Sha256>::from_key_der(der) {
        Ok(key) => Ok(DkimKey::Rsa(key)),
        // The library's one word for a key under its own limit, which is ours.
        Err(error) if error.to_string().contains("TooSmall") => Err(DkimError::Short),
        Err(error) => Err(DkimError::Kind(error)),
    }
}

/// A composed message, CRLF line ends; what is left of it while the fields are taken off.
struct Message<'m>(&'m [u8]);

impl<'m> HeaderStream<'m> for Message<'m> {
    /// Name and value of the next field, folds and line end included; none before the empty line.
    fn next_header(&mut self) -> Option<(&'m [u8], &'m [u8])> {
        let colon = self.0.iter().position(|octet| matches!(octet, b':' | b'\r'))?;
        let (name, rest) = self.0.split_at(colon);
        let value = rest.strip_prefix(b":")?;
        let ends =
            |at: &usize| value[..*at].ends_with(b"\r\n") && !matches!(value.get(*at), Some(b' ' | b'\t'));
        let end = (0..=value.len()).find(ends)?;
        self.0 = &value[end..];
        Some((name, &value[..end]))
    }

    fn body(&mut self) -> &'m [u8] {
        self.0.strip_prefix(b"\r\n").unwrap_or(self.0)
    }
}

/// What a signature is made over (RFC 6376, section 3.7): the fields, and the signature's own without its value.
struct Signed<'s> {
    headers: CanonicalHeaders<'s>,
    signature: &'s Signature,
}

impl Writable for Signed<'_> {
    fn write(self, writer: &mut impl Writer) {
        self.headers.write(writer);
        self.signature.write(writer, false);
    }
}

struct Octets<'o>(&'o [u8]);

impl Writable for Octets<'_> {
    fn write(self, writer: &mut impl Writer) {
        writer.write(self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::secret::Secret;

    const RSA: &str = include_str!("../tests/keys/rsa-pkcs8.pem");
    const RSA_PKCS1: &str = include_str!("../tests/keys/rsa-pkcs1.pem");
    const ED25519: &str = include_str!("../tests/keys/ed25519.pem");
    const SHORT: &str = include_str!("../tests/keys/rsa-1024.pem");
    const P256: &str = include_str!("../tests/keys/p256.pem");

    const MAIL: &[u8] =
        b"From: a@example.com\r\nTo: b@example.com\r\nSubject: S\r\nX-Other: x\r\n\r\nText\r\n";

    fn config(key: &str, dns: Option<&str>) -> Dkim {
        let (domain, selector) = ("example.com".to_owned(), "s1".to_owned());
        Dkim { domain, selector, key: Secret::new(key.to_owned()), dns: dns.map(str::to_owned) }
    }

    fn signer(key: &str) -> Signer {
        Signer::new(&config(key, None)).unwrap()
    }

    /// A tag of the first signature, without folding.
    fn tag(signed: &[u8], name: &str) -> String {
        let text = String::from_utf8_lossy(signed).replace("\r\n\t", "");
        let field = text.lines().next().unwrap().trim_start_matches("DKIM-Signature:").to_owned();
        let mut tags = field.split(';').filter_map(|tag| tag.trim().split_once('='));
        tags.find(|(tag, _)| *tag == name).unwrap().1.to_owned()
    }

    #[test]
    fn the_same_mail_and_moment_give_the_same_octets() {
        for key in [RSA, ED25519] {
            let at = |second| {
                sign(&[signer(key)], MAIL.to_vec(), Timestamp::from_second(second).unwrap()).unwrap()
            };
            assert_eq!(at(7), at(7));
            assert_ne!(at(7), at(8));
            assert_eq!(tag(&at(7), "t"), "7");
        }
        let now = Timestamp::UNIX_EPOCH;
        let pkcs1 = sign(&[signer(RSA_PKCS1)], MAIL.to_vec(), now).unwrap();
        assert_eq!(pkcs1, sign(&[signer(RSA)], MAIL.to_vec(), now).unwrap(), "one key in two forms");
    }

    #[test]
    fn signatures_stand_above_the_mail_in_short_lines() {
        let signers = [signer(RSA), signer(ED25519)];
        let signed = sign(&signers, MAIL.to_vec(), Timestamp::UNIX_EPOCH).unwrap();
        let above = signed.strip_suffix(MAIL).unwrap();
        assert!(
            above.starts_with(b"DKIM-Signature: v=1; a=rsa-sha256; s=s1; d=example.com; c=relaxed/relaxed;")
        );
        assert!(crate::compose::safe_text(&signed).is_ok());
        let text = String::from_utf8(above.to_vec()).unwrap();
        assert_eq!(text.matches("DKIM-Signature:").count(), 2);
        assert!(text.lines().all(|line| line.len() <= 90), "{text}");
        assert_eq!(sign(&[], MAIL.to_vec(), Timestamp::UNIX_EPOCH).unwrap(), MAIL);
    }

    #[test]
    fn fields_that_are_not_there_are_covered_and_from_once_more() {
        let signed = sign(&[signer(ED25519)], MAIL.to_vec(), Timestamp::UNIX_EPOCH).unwrap();
        let covered = tag(&signed, "h");
        let mut names: Vec<&str> = covered.split(':').collect();
        assert_eq!(names.iter().filter(|name| **name == "From").count(), 2, "{covered}");
        names.sort_unstable();
        names.dedup();
        let mut fields = FIELDS;
        fields.sort_unstable();
        assert_eq!(names, fields);
    }

    #[test]
    fn a_key_that_is_short_or_of_another_kind_is_refused() {
        let told = |key| Signer::new(&config(key, None)).unwrap_err().to_string();
        assert_eq!(told(SHORT), "an RSA key needs 2048 bits or more");
        assert!(told(P256).starts_with("neither an RSA nor an Ed25519 key"), "{}", told(P256));
        assert_eq!(told("secret words"), "not a private key in PEM (PKCS#1 or PKCS#8)");
        let cut = &RSA[..RSA.len() / 2];
        assert!(told(cut).starts_with("not a private key"), "{}", told(cut));
        let of_public = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n";
        assert!(told(of_public).starts_with("not a private key"));
    }

    #[test]
    fn a_record_fits_its_own_key_and_no_other() {
        let (rsa, ed25519) = (signer(RSA).record(), signer(ED25519).record());
        let spread = rsa.replace("; p=", " ; t=s; n=note; p= ").replace("AQ", "A Q");
        for (key, record) in [(RSA, &rsa), (RSA_PKCS1, &rsa), (ED25519, &ed25519), (RSA, &spread)] {
            assert!(Signer::new(&config(key, Some(record))).is_ok(), "{record}");
        }
        let wrong = [
            (RSA, ed25519.as_str(), "does not fit the key; the record"),
            (ED25519, &rsa, "does not fit the key; the record"),
            (RSA, "v=DKIM1; k=rsa; p=", "has been revoked"),
            (RSA, "v=DKIM1; k=rsa", "does not fit the key ("),
            (RSA, "v=spf1 -all", "does not fit the key ("),
            (RSA, "", "does not fit the key ("),
        ];
        for (key, record, words) in wrong {
            let told = Signer::new(&config(key, Some(record))).unwrap_err().to_string();
            assert!(told.contains(words), "{words} is not in {told}");
            assert!(told.ends_with(&signer(key).record()), "{told}");
        }
    }
}
