//! The checks of a request's head before any service sees it: the rules that hyper leaves to its user.
//!
//! | head | answer | by |
//! | --- | --- | --- |
//! | HTTP/1.1 without `Host`; any version with two of them, or with one that is not a host | 400 | RFC 9112, 3.2 |
//! | HTTP/2 with neither `:authority` nor `Host`, with both and different, or with user information | 400 | RFC 9113, 8.3.1 |
//! | `Transfer-Encoding` other than `chunked` alone | 501 | RFC 9112, 6.1 |
//!
//! hyper itself answers 400 if a body's length can't be known (`chunked` is not the last coding, or comes with
//! HTTP/1.0: RFC 9112, 6.1 and 6.3), drops a `Content-Length` beside `chunked`, and closes after both. HTTP/1.0
//! needs no `Host`.

use std::net::Ipv6Addr;

use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version, header, uri::Authority};

/// The reason why a request is refused before its service sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("a request of HTTP/1.1 needs a Host header (RFC 9112, section 3.2)")]
    NoHost,
    #[error("the request has more than one Host header; send one (RFC 9112, section 3.2)")]
    TwoHosts,
    #[error("the Host header is not a host with an optional port (RFC 9110, section 7.2)")]
    InvalidHost,
    #[error("a request of HTTP/2 needs :authority or a Host header (RFC 9113, section 8.3.1)")]
    NoAuthority,
    #[error(
        "the Host header and :authority differ; send the same or only one (RFC 9113, section 8.3.1)"
    )]
    TwoAuthorities,
    #[error("the request's target is not a host with an optional port (RFC 9110, section 4.2)")]
    InvalidAuthority,
    #[error("the only Transfer-Encoding taken is `chunked`, once (RFC 9112, section 6.1)")]
    TransferEncoding,
    #[error(
        "the request's body did not go on, and this server is about to end; send the request again"
    )]
    Stalled,
}

// === impl Refusal ===

impl Refusal {
    pub(super) fn status(self) -> StatusCode {
        match self {
            Self::TransferEncoding => StatusCode::NOT_IMPLEMENTED,
            Self::Stalled => StatusCode::REQUEST_TIMEOUT,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}

/// Checks a head. If the request's target names its host, the `Host` header is set to it: an origin server
/// ignores the header's own value then (RFC 9112, section 3.2.2).
pub(super) fn check<B>(request: &mut http::Request<B>) -> Result<(), Refusal> {
    // Most requests have one Host and no Transfer-Encoding, and need no further check.
    check_transfer_encoding(request.headers())?;
    let host = host(request.headers())?;
    if request.version() >= Version::HTTP_2 {
        return check_authority(request.uri(), host);
    }
    let Some(host) = host else {
        return match request.version() {
            Version::HTTP_11 => Err(Refusal::NoHost),
            _ => Ok(()),
        };
    };
    let Some(target) = named(request.method(), request.uri())? else {
        return Ok(());
    };
    if host != target.as_str() {
        let target = HeaderValue::from_str(target.as_str());
        let target = target.map_err(|_| Refusal::InvalidAuthority)?;
        request.headers_mut().insert(header::HOST, target);
    }
    Ok(())
}

/// Returns the target's own host, if it is in absolute form. A CONNECT names its destination there, not this server.
fn named<'a>(method: &Method, target: &'a Uri) -> Result<Option<&'a Authority>, Refusal> {
    let Some(authority) = target.authority() else {
        return Ok(None);
    };
    if !is_host(authority.as_str().as_bytes()) {
        return Err(Refusal::InvalidAuthority);
    }
    Ok((method != Method::CONNECT).then_some(authority))
}

fn check_authority(target: &Uri, host: Option<&HeaderValue>) -> Result<(), Refusal> {
    let Some(authority) = target.authority() else {
        return host.map(|_| ()).ok_or(Refusal::NoAuthority);
    };
    if !is_host(authority.as_str().as_bytes()) {
        return Err(Refusal::InvalidAuthority);
    }
    match host {
        Some(host) if !is_same(host.as_bytes(), authority, target.scheme_str()) => {
            Err(Refusal::TwoAuthorities)
        }
        _ => Ok(()),
    }
}

/// Whether host and port are the same; the scheme's default port may be left out, and case does not matter.
fn is_same(host: &[u8], authority: &Authority, scheme: Option<&str>) -> bool {
    let default: &[u8] = match scheme {
        Some("https") => b"443",
        _ => b"80",
    };
    let parts = |authority: &[u8]| {
        let (name, port) = split_port(authority);
        let port = port.filter(|port| !port.is_empty() && *port != default);
        (name.to_ascii_lowercase(), port.map(<[u8]>::to_vec))
    };
    parts(host) == parts(authority.as_str().as_bytes())
}

/// Returns the only `Host` header, if there is one, after checking that it is a host.
fn host(headers: &HeaderMap) -> Result<Option<&HeaderValue>, Refusal> {
    let mut hosts = headers.get_all(header::HOST).into_iter();
    let Some(host) = hosts.next() else {
        return Ok(None);
    };
    if hosts.next().is_some() {
        return Err(Refusal::TwoHosts);
    }
    match is_host(host.as_bytes()) {
        true => Ok(Some(host)),
        false => Err(Refusal::InvalidHost),
    }
}

fn check_transfer_encoding(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).into_iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(Refusal::TransferEncoding),
    }
}

/// Whether this is `uri-host [ ":" port ]` (RFC 3986, section 3.2). It may be empty: some targets have no host.
fn is_host(host: &[u8]) -> bool {
    let (name, port) = split_port(host);
    let port_is_one = port.is_none_or(|port| {
        let digits = port.iter().all(u8::is_ascii_digit);
        let number = str::from_utf8(port).ok().map(str::parse::<u16>);
        digits && (port.is_empty() || matches!(number, Some(Ok(_))))
    });
    port_is_one && is_name(name)
}

/// Splits a host into the name before the port, and the port.
fn split_port(host: &[u8]) -> (&[u8], Option<&[u8]>) {
    // An address in brackets has colons of its own.
    let from = match host.first() {
        Some(b'[') => host.iter().position(|byte| *byte == b']').unwrap_or(0),
        _ => 0,
    };
    match host[from..].iter().position(|byte| *byte == b':') {
        Some(colon) => (&host[..from + colon], Some(&host[from + colon + 1..])),
        None => (host, None),
    }
}

fn is_name(name: &[u8]) -> bool {
    match name {
        [b'[', literal @ .., b']'] => is_address(literal),
        _ => is_registered_name(name),
    }
}

/// Whether this is `IPv6address / IPvFuture`.
fn is_address(literal: &[u8]) -> bool {
    match literal {
        [b'v' | b'V', future @ ..] => {
            let dot = future.iter().position(|byte| *byte == b'.');
            dot.is_some_and(|dot| {
                let (version, address) = (&future[..dot], &future[dot + 1..]);
                !version.is_empty()
                    && version.iter().all(u8::is_ascii_hexdigit)
                    && !address.is_empty()
                    && address.iter().all(|byte| is_plain(*byte) || *byte == b':')
            })
        }
        _ => str::from_utf8(literal).is_ok_and(|literal| literal.parse::<Ipv6Addr>().is_ok()),
    }
}

/// Whether this is `*( unreserved / pct-encoded / sub-delims )`.
fn is_registered_name(mut name: &[u8]) -> bool {
    loop {
        name = match name {
            [] => return true,
            [b'%', a, b, rest @ ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit() => rest,
            [byte, rest @ ..] if is_plain(*byte) => rest,
            _ => return false,
        }
    }
}

/// Whether this is `unreserved / sub-delims`.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(&byte)
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    #[test]
    fn hosts_are_told_from_what_is_none() {
        for host in [
            "",
            "shop",
            "shop.example:8080",
            "shop_1.default.svc",
            "shop:",
            "10.0.0.1:9090",
            "[fd00::1]",
            "[fd00::1]:9090",
            "[::ffff:10.0.0.1]",
            "[v1.a:b]",
            "caf%C3%A9",
        ] {
            assert!(is_host(host.as_bytes()), "{host}");
        }
        for host in [
            "a b",
            "a/b",
            "user@shop",
            "user:secret@shop",
            "shop:http",
            "shop:80:80",
            "shop:65536",
            "shop:+80",
            "fd00::1",
            "[fd00::1",
            "[fd00::1]x",
            "[shop]",
            "[fe80::1%25eth0]",
            "[v.a]",
            "caf\u{e9}",
            "%zz",
            "a?b",
            "a#b",
            "a\\b",
            "<shop>",
            "http://shop",
        ] {
            assert!(!is_host(host.as_bytes()), "{host}");
        }
    }

    fn http2(uri: &str, host: Option<&str>) -> Result<(), Refusal> {
        let mut request = Request::get(uri).version(Version::HTTP_2);
        if let Some(host) = host {
            request = request.header(header::HOST, host);
        }
        check(&mut request.body(()).unwrap())
    }

    #[test]
    fn an_authority_and_a_host_must_agree_whatever_their_case_and_default_port() {
        assert_eq!(http2("http://shop/", None), Ok(()));
        assert_eq!(http2("/", Some("shop")), Ok(()));
        assert_eq!(http2("/", None), Err(Refusal::NoAuthority));
        assert_eq!(http2("http://shop/", Some("SHOP:80")), Ok(()));
        assert_eq!(http2("https://shop:443/", Some("shop")), Ok(()));
        assert_eq!(http2("http://shop:81/", Some("shop:81")), Ok(()));
        for host in ["other", "shop:81", "shop:443", ""] {
            let checked = http2("http://shop/", Some(host));
            assert_eq!(checked, Err(Refusal::TwoAuthorities), "{host}");
        }
        assert_eq!(
            http2("http://me@shop/", None),
            Err(Refusal::InvalidAuthority)
        );
        assert_eq!(
            http2("http://shop/", Some("a b")),
            Err(Refusal::InvalidHost)
        );
    }

    #[test]
    fn the_target_s_own_host_replaces_the_header() {
        let request = Request::get("http://shop:81/path").header(header::HOST, "other");
        let mut request = request.body(()).unwrap();

        assert_eq!(check(&mut request), Ok(()));

        assert_eq!(request.headers()[header::HOST], "shop:81");
    }
}
