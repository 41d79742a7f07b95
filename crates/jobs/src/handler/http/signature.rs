//! Standard Webhooks signatures: the target can tell that a job comes from here, and when it was sent.
//!
//! ```text
//!   webhook-signature: v1,base64(HMAC-SHA256(secret, "{webhook-id}.{webhook-timestamp}.{body}")) v1,…
//! ```
//!
//! The crate `standardwebhooks` signs UTF-8 only, and a payload is bytes.

use std::{fmt, str::FromStr};

use base64::{Engine, engine::general_purpose::STANDARD};
use ring::hmac;

/// The prefix of a secret, which distinguishes it from other strings.
const PREFIX: &str = "whsec_";
/// Minimum and maximum number of bytes of a secret, by the specification.
const LENGTHS: std::ops::RangeInclusive<usize> = 24..=64;

/// A secret shared with the target: `whsec_` and 24 to 64 random bytes in base64.
#[derive(Clone)]
pub struct Secret(hmac::Key);

/// Error for a string that is not a secret. It does not repeat the string.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "this is not a signing secret: it is 'whsec_' and 24 to 64 bytes in base64; make one by: \
     echo whsec_$(openssl rand -base64 32)"
)]
pub struct InvalidSecret;

/// Returns the value of `webhook-signature`: one signature for each secret.
pub(super) fn sign(secrets: &[Secret], id: &str, timestamp: i64, payload: &[u8]) -> String {
    let signatures = secrets.iter().map(|Secret(key)| {
        let mut signed = hmac::Context::with_key(key);
        signed.update(format!("{id}.{timestamp}.").as_bytes());
        signed.update(payload);
        format!("v1,{}", STANDARD.encode(signed.sign()))
    });
    signatures.collect::<Vec<_>>().join(" ")
}

// === impl Secret ===

impl FromStr for Secret {
    type Err = InvalidSecret;

    fn from_str(text: &str) -> Result<Self, InvalidSecret> {
        let encoded = text.trim().strip_prefix(PREFIX).ok_or(InvalidSecret)?;
        let bytes = STANDARD.decode(encoded).map_err(|_| InvalidSecret)?;
        match LENGTHS.contains(&bytes.len()) {
            true => Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &bytes))),
            false => Err(InvalidSecret),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("whsec_…")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example secret from the specification's own libraries.
    const EXAMPLE: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

    #[test]
    fn the_example_of_the_specification_is_signed_as_there() {
        let signature = sign(
            &[EXAMPLE.parse().unwrap()],
            "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
            1_649_367_553,
            br#"{"email":"test@example.com","username":"test_user"}"#,
        );
        assert_eq!(signature, "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=");
    }

    #[test]
    fn what_is_no_secret_is_refused_and_not_repeated() {
        let long = format!("whsec_{}", STANDARD.encode([7; 65]));
        let bad = [
            "",
            "C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
            "whsec_",
            "whsec_***",
            "whsec_aGVsbG8=",
            &long,
        ];
        for text in bad {
            assert_eq!(text.parse::<Secret>().unwrap_err(), InvalidSecret, "{text}");
        }
        let good: Secret = format!(" {EXAMPLE}\n").parse().unwrap();
        assert_eq!(format!("{good:?}"), "whsec_…");
    }
}
