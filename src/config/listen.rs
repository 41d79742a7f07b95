//! Addresses to listen on, and messages about texts that are not one.

use super::value::{Form, Value};

/// An address to listen on: `HOST:PORT`, or `unix:PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address(String);

/// The part of an error that says how an address is written.
const HOW: &str = "write HOST:PORT, as in 127.0.0.1:8080 for this machine alone or 0.0.0.0:8080 for all of its addresses, \
                   or unix:PATH";

// === impl Address ===

impl Address {
    /// Creates an address from a text that is known to be valid.
    pub(super) fn of(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// Returns the address as it is bound.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl Value for Address {
    const FORM: Form = Form::Text;

    fn from_text(text: &str) -> Result<Self, String> {
        let text = text.trim();
        match fault(text) {
            None => Ok(Self(text.to_owned())),
            Some(fault) => Err(format!("{fault}; {HOW}")),
        }
    }

    fn shown(&self) -> String {
        self.0.clone()
    }
}

/// Describes what is wrong with an address without repeating it: it may be a secret in the wrong place.
fn fault(text: &str) -> Option<&'static str> {
    if let Some(path) = text.strip_prefix("unix:") {
        return path.is_empty().then_some("'unix:' has no path behind it");
    }
    if text.is_empty() {
        return Some("it is empty");
    }
    if text.contains("://") {
        return Some("it is a URL, and an address has no scheme and no path");
    }
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some("it is a port without a host");
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return Some("it has no port");
    };
    if host.is_empty() {
        return Some("it is a port without a host");
    }
    if port.parse::<u16>().is_err() {
        return Some("its port is not a number from 0 to 65535");
    }
    match host.strip_prefix('[') {
        Some(host) => {
            let address = host.strip_suffix(']').unwrap_or_default();
            // An interface may follow the address, as in fe80::1%eth0.
            let address = address.split('%').next().unwrap_or_default();
            let is_address = address.parse::<std::net::Ipv6Addr>().is_ok();
            (!is_address).then_some("what stands in brackets is not an IPv6 address")
        }
        None if host == "*" => Some("'*' is not a host"),
        None if host.contains(':') => Some("an IPv6 address stands in brackets, as in [::1]:8080"),
        None => {
            let in_a_name = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
            (!host.chars().all(in_a_name)).then_some("its host is neither a name nor an address")
        }
    }
}
