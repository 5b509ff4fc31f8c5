//! The signed tokens that tie a mail to its session.
//!
//! A token names the session and the delivery, and carries 128 bits of HMAC-SHA-256 under the tenant's key, so that
//! nobody else can make one. Each use has tokens of its own: who has read a Message-ID in a ticket's thread does not
//! know the envelope sender, to which alone bounces go. Lower case letters and digits only, at most 48 octets: mail
//! servers may fold the case of a local part, and RFC 5321 gives it 64 octets.

use data_encoding::BASE32_DNSCURVE;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::ids::{Digest, Kind, SessionKey, SessionName};

/// The octets of the MAC, and their characters in base 32.
const MAC_OCTETS: usize = 16;
const MAC_LENGTH: usize = 26;

/// The characters that tell the deliveries of a session apart.
const UNIQUE_LENGTH: usize = 7;

/// The longest token: 64 bits in base 36, with what stands around them.
const LONGEST: usize = 48;

/// Where a token stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the envelope's sender and its ENVID, which servers see and people rarely do.
    EnvelopeSender,
    /// In `Reply-To`.
    ReplyTo,
    /// In the Message-ID, which every answer in the thread repeats.
    MessageId,
}

/// A key that signs one tenant's tokens.
#[derive(Clone)]
pub struct TokenKey(Hmac<Sha256>);

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenKey(..)")
    }
}

impl TokenKey {
    /// A key from secret bytes, bound to the tenant so that tokens of two tenants with one secret differ.
    pub fn new(secret: &[u8], tenant: &str) -> Self {
        let bound = keyed(secret).chain_update(b"aftercall token key v1\0").chain_update(tenant).finalize();
        Self(keyed(&bound.into_bytes()))
    }

    /// The token of one delivery for one use. `of` is the digest of what makes the delivery unique within its session.
    pub fn sign(&self, session: &SessionKey, of: &Digest, place: Place) -> String {
        let kind = match session.name.kind {
            Kind::Call => 'c',
            Kind::Chat => 't',
        };
        let mut body = format!("{kind}{}-", base36(session.name.number));
        // 32 bits tell the deliveries of one session apart; unforgeable is only what follows.
        body.push_str(&BASE32_DNSCURVE.encode(&of.0[..4]));
        let mac = self.mac(&session.instance, &body, place).finalize().into_bytes();
        let mac = BASE32_DNSCURVE.encode(&mac[..MAC_OCTETS]);
        body + &mac
    }

    /// The session that a token names, if this key made it for this use. In constant time as to the MAC.
    pub fn verify(&self, token: &str, instance: &str, place: Place) -> Option<SessionName> {
        let token = token.to_ascii_lowercase();
        let (name, unique) = token.split_once('-')?;
        let mac = token.get(token.len().checked_sub(MAC_LENGTH)?..)?;
        if unique.len() != MAC_LENGTH + UNIQUE_LENGTH {
            return None;
        }
        let mac = BASE32_DNSCURVE.decode(mac.as_bytes()).ok()?;
        let body = &token[..token.len() - MAC_LENGTH];
        self.mac(instance, body, place).verify_truncated_left(&mac).ok()?;
        let kind = match name.get(..1)? {
            "c" => Kind::Call,
            "t" => Kind::Chat,
            _ => return None,
        };
        let number = u64::from_str_radix(&name[1..], 36).ok()?;
        Some(SessionName { kind, number })
    }

    fn mac(&self, instance: &str, body: &str, place: Place) -> Hmac<Sha256> {
        let place: &[u8] = match place {
            Place::EnvelopeSender => b"envelope",
            Place::ReplyTo => b"reply",
            Place::MessageId => b"message",
        };
        self.0
            .clone()
            .chain_update(place)
            .chain_update(b"\0")
            .chain_update(instance)
            .chain_update(b"\0")
            .chain_update(body)
    }
}

/// What a token says before its MAC, in small letters; a text that does not have a token's form is left whole.
pub fn body_of(token: &str) -> String {
    let text = token.to_ascii_lowercase();
    let has_form = text.split_once('-').is_some_and(|(_, rest)| rest.len() == UNIQUE_LENGTH + MAC_LENGTH);
    let end = text.len().saturating_sub(MAC_LENGTH);
    match text.get(..end).filter(|_| has_form && text.len() <= LONGEST) {
        Some(body) => body.to_owned(),
        None => token.to_owned(),
    }
}

fn keyed(secret: &[u8]) -> Hmac<Sha256> {
    #[expect(clippy::expect_used, reason = "RFC 2104, section 2")]
    Hmac::new_from_slice(secret).expect("HMAC takes keys of any length")
}

/// A number in digits and lower case letters: at most 13 characters for 64 bits.
fn base36(mut number: u64) -> String {
    let mut digits = Vec::new();
    loop {
        digits.extend(char::from_digit(u32::try_from(number % 36).unwrap_or(0), 36));
        number /= 36;
        if number == 0 {
            return digits.into_iter().rev().collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PLACES: [Place; 3] = [Place::EnvelopeSender, Place::ReplyTo, Place::MessageId];

    fn key_of(number: u64) -> SessionKey {
        SessionKey {
            tenant: "acme".into(),
            instance: "acme".into(),
            name: SessionName { kind: Kind::Call, number },
        }
    }

    fn signed(number: u64, place: Place) -> String {
        TokenKey::new(b"secret", "acme").sign(&key_of(number), &Digest::of(b"1"), place)
    }

    #[test]
    fn a_token_is_the_same_each_time_and_changes_with_everything_it_binds() {
        let signer = TokenKey::new(b"secret", "acme");
        let session = key_of(41207);
        let sign = |signer: &TokenKey, session: &SessionKey, of: &[u8], place| {
            signer.sign(session, &Digest::of(of), place)
        };
        let token = sign(&signer, &session, b"1", Place::MessageId);
        assert_eq!(token, signed(41207, Place::MessageId));
        let other_instance = SessionKey { instance: "acme-eu".into(), ..session.clone() };
        let others = [
            sign(&signer, &session, b"2", Place::MessageId),
            sign(&signer, &key_of(41208), b"1", Place::MessageId),
            sign(&signer, &other_instance, b"1", Place::MessageId),
            sign(&TokenKey::new(b"secret", "other"), &session, b"1", Place::MessageId),
            sign(&TokenKey::new(b"Secret", "acme"), &session, b"1", Place::MessageId),
            sign(&signer, &session, b"1", Place::ReplyTo),
            sign(&signer, &session, b"1", Place::EnvelopeSender),
        ];
        let mac = |token: &str| token[token.len() - MAC_LENGTH..].to_owned();
        assert!(others.iter().all(|other| mac(other) != mac(&token)), "{token} {others:?}");
    }

    #[test]
    fn a_token_names_its_session_to_who_made_it_for_this_place_and_to_nobody_else() {
        let token = signed(41207, Place::EnvelopeSender);
        let verify = |secret: &[u8], tenant, instance, place| {
            TokenKey::new(secret, tenant).verify(&token, instance, place)
        };
        let session = Some(key_of(41207).name);
        assert_eq!(verify(b"secret", "acme", "acme", Place::EnvelopeSender), session);
        assert_eq!(verify(b"secret", "acme", "acme", Place::MessageId), None);
        assert_eq!(verify(b"secret", "acme", "acme", Place::ReplyTo), None);
        assert_eq!(verify(b"secret", "other", "acme", Place::EnvelopeSender), None);
        assert_eq!(verify(b"secret", "acme", "other", Place::EnvelopeSender), None);
        assert_eq!(verify(b"Secret", "acme", "acme", Place::EnvelopeSender), None);
        let key = TokenKey::new(b"secret", "acme");
        let folded = token.to_uppercase();
        assert_eq!(key.verify(&folded, "acme", Place::EnvelopeSender), session, "servers may fold the case");
    }

    #[test]
    fn the_longest_token_fits_a_local_part() {
        for place in PLACES {
            let token = signed(u64::MAX, place);
            assert!(token.len() <= 48, "{token} has {} octets", token.len());
            assert!(
                token.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'),
                "{token}"
            );
        }
    }

    #[test]
    fn numbers_are_written_in_base_36() {
        for (number, text) in [(0, "0"), (35, "z"), (36, "10"), (41207, "vsn"), (u64::MAX, "3w5e11264sgsf")] {
            assert_eq!(base36(number), text);
        }
    }

    proptest! {
        #[test]
        fn whoever_changes_a_character_has_no_token(number in any::<u64>(), at in 0_usize..48, to in "[a-z0-9-]") {
            let token = signed(number, Place::MessageId);
            let mut forged = token.clone();
            let at = at % token.len();
            forged.replace_range(at..=at, &to);
            let read = TokenKey::new(b"secret", "acme").verify(&forged, "acme", Place::MessageId);
            prop_assert_eq!(read.is_some(), forged == token);
        }

        #[test]
        fn whoever_cuts_or_lengthens_a_token_has_none(number in any::<u64>(), cut in 0_usize..48, more in "[a-z0-9]{1,9}") {
            let (token, key) = (signed(number, Place::MessageId), TokenKey::new(b"secret", "acme"));
            let cut = cut % token.len();
            prop_assert_eq!(key.verify(&token[..cut], "acme", Place::MessageId), None);
            prop_assert_eq!(key.verify(&token[token.len() - cut..], "acme", Place::MessageId), None);
            prop_assert_eq!(key.verify(&(token.clone() + &more), "acme", Place::MessageId), None);
            prop_assert_eq!(key.verify(&(more + &token), "acme", Place::MessageId), None);
        }

        #[test]
        fn no_text_is_too_odd_to_be_refused(text in "\\PC{0,60}") {
            prop_assert_eq!(TokenKey::new(b"secret", "acme").verify(&text, "acme", Place::MessageId), None);
        }
    }
}
