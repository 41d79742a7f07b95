//! The target of the jobs, and the errors for values that are not valid targets.

use std::fmt;

use reqwest::Url;

/// A URL that can be posted to.
#[derive(Clone)]
pub(super) struct Target(Url);

/// Error when a handler can't be made from the operator's configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidTarget {
    /// It can't be parsed as a URL.
    // The text is left out here and below, because it may hold a password or a token.
    #[error(
        "it is not a URL: {reason}; write the whole of it, as in http://resize.media.svc:8080/jobs"
    )]
    Malformed {
        /// The reason why it is not a URL.
        reason: &'static str,
    },
    /// It is a URL of another kind.
    #[error(
        "it begins neither with http:// nor with https://; write the whole of it, as in \
         http://resize.media.svc:8080/jobs"
    )]
    Scheme,
    /// The certificate authorities to trust can't be read.
    #[error(
        "these are no certificates to trust: {0}; give them as PEM, '-----BEGIN CERTIFICATE-----' and on"
    )]
    Certificate(String),
}

// === impl Target ===

impl Target {
    pub fn parse(url: &str) -> Result<Self, InvalidTarget> {
        let parsed = Url::parse(url).map_err(|error| InvalidTarget::Malformed {
            reason: match &*error.to_string() {
                "empty host" => "it has no host",
                "invalid port number" => "its port is not a number from 0 to 65535",
                "relative URL without a base" => "there is no http:// or https:// in front",
                _ => "its host is neither a name nor an address",
            },
        })?;
        match parsed.scheme() {
            "http" | "https" => Ok(Self(parsed)),
            _ => Err(InvalidTarget::Scheme),
        }
    }

    pub fn url(&self) -> Url {
        self.0.clone()
    }
}

/// Shows the URL without user, password, query and fragment: they may hold secrets, and this goes into errors.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = &self.0;
        write!(f, "{}{}", url.origin().ascii_serialization(), url.path())
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(url: &str) -> String {
        match Target::parse(url) {
            Ok(target) => panic!("{url} became {target}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn what_is_no_target_is_refused_with_a_way_out() {
        assert!(refused("resize/jobs").contains("write the whole of it"));
        assert!(refused("http://").contains("it has no host"));
        assert!(refused("https://resize:99999/").contains("its port is not a number"));
        assert!(refused("localhost:8080/jobs").contains("as in http://"));
        assert!(refused("ftp://resize/jobs").contains("as in http://"));
        for url in [
            "S3cret",
            "S3cret:8080/jobs",
            "ftp://me:S3cret@a/",
            "http://me:S3cret/pw@a/",
        ] {
            assert!(!refused(url).contains("S3cret"), "{url}");
        }
    }

    #[test]
    fn what_is_shown_of_a_target_holds_no_secret() {
        let target = Target::parse("https://me:secret@resize:8443/jobs?token=secret#x").unwrap();

        assert_eq!(target.to_string(), "https://resize:8443/jobs");
        assert_eq!(format!("{target:?}"), "https://resize:8443/jobs");
        assert!(target.url().as_str().contains("token=secret"));
    }
}
