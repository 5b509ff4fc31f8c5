//! The signed token that ties a mail to its session.
//!
//! It stands in the envelope sender, the Message-ID and, where the profile allows, in `Reply-To`. It names the
//! session and the delivery, and carries 128 bits of HMAC-SHA-256 under the tenant's key, so that nobody else
//! can make one. Lower case letters and digits only, at most 48 octets: mail servers may fold the case of a
//! local part, and RFC 5321 gives it 64 octets.

use data_encoding::BASE32_DNSCURVE;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::ids::{Digest, Kind, SessionKey};

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

    /// The token of one delivery. `of` is the digest of what makes the delivery unique within its session.
    pub fn sign(&self, session: &SessionKey, of: &Digest) -> String {
        let kind = match session.name.kind {
            Kind::Call => 'c',
            Kind::Chat => 't',
        };
        let mut body = format!("{kind}{}-", base36(session.name.number));
        // 40 bits tell the deliveries of one session apart; unforgeable is only what follows.
        body.push_str(&BASE32_DNSCURVE.encode(&of.0[..4]));
        let mac =
            self.0.clone().chain_update(&session.instance).chain_update(b"\0").chain_update(&body).finalize();
        let mac = BASE32_DNSCURVE.encode(&mac.into_bytes()[..16]);
        body + &mac
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
    use super::*;
    use crate::ids::SessionName;

    fn key_of(number: u64) -> SessionKey {
        SessionKey {
            tenant: "acme".into(),
            instance: "acme".into(),
            name: SessionName { kind: Kind::Call, number },
        }
    }

    #[test]
    fn a_token_is_the_same_each_time_and_changes_with_everything_it_binds() {
        let signer = TokenKey::new(b"secret", "acme");
        let session = key_of(41207);
        let token = signer.sign(&session, &Digest::of(b"1"));
        assert_eq!(token, signer.sign(&session, &Digest::of(b"1")));
        let other_instance = SessionKey { instance: "acme-eu".into(), ..session.clone() };
        let others = [
            signer.sign(&session, &Digest::of(b"2")),
            signer.sign(&key_of(41208), &Digest::of(b"1")),
            signer.sign(&other_instance, &Digest::of(b"1")),
            TokenKey::new(b"secret", "other").sign(&session, &Digest::of(b"1")),
            TokenKey::new(b"Secret", "acme").sign(&session, &Digest::of(b"1")),
        ];
        let mac = |token: &str| token[token.len() - 26..].to_owned();
        assert!(others.iter().all(|other| mac(other) != mac(&token)), "{token} {others:?}");
    }

    #[test]
    fn the_longest_token_fits_a_local_part() {
        let token = TokenKey::new(b"secret", "acme").sign(&key_of(u64::MAX), &Digest::of(b"1"));
        assert!(token.len() <= 48, "{token} has {} octets", token.len());
        assert!(token.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'), "{token}");
    }

    #[test]
    fn numbers_are_written_in_base_36() {
        for (number, text) in [(0, "0"), (35, "z"), (36, "10"), (41207, "vsn"), (u64::MAX, "3w5e11264sgsf")] {
            assert_eq!(base36(number), text);
        }
    }
}
