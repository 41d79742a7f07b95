//! The pod's own token: which Pod it is bound to, and when it expires.
//!
//! The kubelet mounts a token that is bound to the Pod object (KEP-1205) and replaces the file before the token
//! expires. The API server checks at each request that the token's signature is valid, that it has not expired,
//! and that the ServiceAccount and the Pod that it names still exist (`pkg/serviceaccount/claims.go`). If any check
//! fails, the answer is 401 and does not say which, so the claims are read here to rule out some of the causes.
//! They are not verified: anybody who can forge the file controls this process anyway.

use std::path::Path;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;

/// The claims of a token.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Claims {
    /// When it expires, in seconds since 1970 by the API server's clock.
    #[serde(rename = "exp")]
    pub(super) expires: Option<i64>,
    #[serde(rename = "kubernetes.io", default)]
    kubernetes: Bound,
}

/// The objects that a token is bound to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
struct Bound {
    pod: Option<Reference>,
    /// The node; present from Kubernetes 1.30 on.
    node: Option<Reference>,
}

/// A reference to an object that a token is bound to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Reference {
    pub(super) name: Option<String>,
    pub(super) uid: Option<String>,
}

// === impl Claims ===

impl Claims {
    /// Returns the claims of the token in this file; `None` if there is no file, or no such token in it.
    pub(super) fn read(file: &Path) -> Option<Self> {
        Self::parse(&std::fs::read_to_string(file).ok()?)
    }

    /// Returns the claims of a JSON Web Token (RFC 7519); `None` if the text is something else.
    fn parse(token: &str) -> Option<Self> {
        let mut parts = token.trim().split('.');
        let (_header, payload, _signature) = (parts.next()?, parts.next()?, parts.next()?);
        let payload = URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?;
        serde_json::from_slice(&payload).ok()
    }

    /// Returns the Pod that the token is bound to.
    pub(super) fn pod(&self) -> Option<&Reference> {
        self.kubernetes.pod.as_ref()
    }

    /// Returns the node that the Pod was bound to when the token was issued.
    pub(super) fn node(&self) -> Option<&Reference> {
        self.kubernetes.node.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(payload: &str) -> String {
        let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
        format!("{}.{}.c2lnbmVk", part(r#"{"alg":"RS256"}"#), part(payload))
    }

    #[test]
    fn the_kubelets_token_names_its_pod_and_its_end() {
        let text = token(
            r#"{"aud":["https://kubernetes.default.svc"],"exp":1800000000,"iat":1700000000,
               "kubernetes.io":{"namespace":"shop","node":{"name":"n1","uid":"nu"},"pod":{"name":"web-0","uid":"u1"},
               "serviceaccount":{"name":"web","uid":"su"}},"sub":"system:serviceaccount:shop:web"}"#,
        );
        let claims = Claims::parse(&format!("{text}\n")).expect("claims");
        assert_eq!(claims.expires, Some(1_800_000_000));
        let pod = claims.pod().expect("a pod");
        assert_eq!(
            (pod.name.as_deref(), pod.uid.as_deref()),
            (Some("web-0"), Some("u1"))
        );
        assert_eq!(
            claims.node().and_then(|node| node.name.as_deref()),
            Some("n1")
        );
    }

    #[test]
    fn what_is_no_such_token_claims_nothing() {
        for text in [
            "",
            "opaque",
            "a.b",
            "a.b.c",
            &token("[]"),
            &token("{\"exp\":\"soon\"}"),
        ] {
            assert_eq!(Claims::parse(text), None, "{text}");
        }
        assert_eq!(Claims::parse(&token("{}")), Some(Claims::default()));
        assert_eq!(Claims::read(Path::new("/nowhere/token")), None);
    }
}
