//! Where the jobs go, and why something is no place to send them to.

use std::fmt;

use reqwest::Url;

/// A URL that can be posted to.
#[derive(Clone)]
pub(super) struct Target(Url);

/// Why a handler can't be made of what the operator configured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidTarget {
    /// It can't be read as a URL.
    #[error(
        "'{url}' is not a URL ({reason}); write the whole of it, as in http://resize.media.svc:8080/jobs"
    )]
    Malformed {
        /// As given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// It is a URL of another kind.
    #[error(
        "'{url}' has the scheme '{scheme}'; jobs are posted to http:// or https://, as in http://{url}"
    )]
    Scheme {
        /// As given.
        url: String,
        /// What stands before its colon.
        scheme: String,
    },
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
            url: url.to_owned(),
            reason: error.to_string(),
        })?;
        match parsed.scheme() {
            "http" | "https" => Ok(Self(parsed)),
            scheme => Err(InvalidTarget::Scheme {
                url: url
                    .rsplit_once("//")
                    .map_or(url, |(_, rest)| rest)
                    .to_owned(),
                scheme: scheme.to_owned(),
            }),
        }
    }

    pub fn url(&self) -> Url {
        self.0.clone()
    }
}

/// Without user, password, query and fragment: they may hold secrets, and this goes into errors.
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
        assert!(refused("http://").contains("empty host"));
        assert!(refused("https://resize:99999/").contains("invalid port"));
        assert!(refused("localhost:8080/jobs").contains("as in http://localhost:8080/jobs"));
        assert!(refused("ftp://resize/jobs").contains("as in http://resize/jobs"));
    }

    #[test]
    fn what_is_shown_of_a_target_holds_no_secret() {
        let target = Target::parse("https://me:secret@resize:8443/jobs?token=secret#x").unwrap();

        assert_eq!(target.to_string(), "https://resize:8443/jobs");
        assert_eq!(format!("{target:?}"), "https://resize:8443/jobs");
        assert!(target.url().as_str().contains("token=secret"));
    }
}
