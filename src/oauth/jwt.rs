//! A signed assertion in place of a client's secret (RFC 7523), with RSA and SHA-256 (RFC 7518, section 3.3).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use rustls::SignatureScheme;
use rustls::crypto::ring::sign::any_supported_type;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use serde_json::json;

use crate::config::oauth2::Assertion;

/// How long an assertion is good. Servers refuse one that is good for longer than five minutes.
const LIFE: i64 = 180;

/// Writes and signs an assertion; or says why the key cannot sign.
pub(super) fn assertion(config: &Assertion, now: Timestamp) -> Result<String, String> {
    let key = PrivateKeyDer::from_pem_slice(config.key.expose().as_bytes())
        .map_err(|_| "the key is not a private key in PEM (PKCS#1 or PKCS#8)".to_owned())?;
    let key = any_supported_type(&key).map_err(|error| format!("the key cannot be used: {error}"))?;
    let signer = key
        .choose_scheme(&[SignatureScheme::RSA_PKCS1_SHA256])
        .ok_or_else(|| "the key is not of RSA".to_owned())?;
    let head = json!({ "alg": "RS256", "typ": "JWT" });
    let claims = json!({
        "iss": config.issuer,
        "sub": config.subject,
        "aud": config.audience,
        "exp": now.as_second() + LIFE,
    });
    let [head, claims] = [head, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
    let signed = format!("{head}.{claims}");
    let signature =
        signer.sign(signed.as_bytes()).map_err(|error| format!("the key cannot sign: {error}"))?;
    Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
}
