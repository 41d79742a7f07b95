//! The changes that a proxy makes to a message, and no others (RFC 9110, section 7.6; RFC 9112; RFC 9113).
//!
//! | field | to the program | to the client |
//! | --- | --- | --- |
//! | `Connection` and what it names, `Keep-Alive`, `Proxy-Connection`, `Transfer-Encoding` | removed: they are about one connection | removed |
//! | `Upgrade` with `Connection: upgrade` | kept | kept with a 101 |
//! | `TE` | `trailers` alone is kept | |
//! | `Host` | as it came; from the target if that is in absolute form, or HTTP/2's `:authority` | |
//! | `Cookie`, several in HTTP/2 | joined into one (RFC 9113, section 8.2.3) | |
//! | `Max-Forwards` of OPTIONS and TRACE | one less | |
//! | `Via`, `Forwarded`, `X-Forwarded-…` | as they came; none is added | as they came; none is added |
//!
//! No `Via` is added, though section 7.6.3 asks for it: nginx and others stop compressing for it.

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Uri, Version,
    header::{
        CONNECTION, CONTENT_LENGTH, COOKIE, HOST, MAX_FORWARDS, TE, TRANSFER_ENCODING, UPGRADE,
    },
    request, response,
    uri::PathAndQuery,
};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// The decision about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Onward {
    /// It goes to the program.
    Forward {
        /// Whether the client wishes to speak another protocol afterwards.
        upgrade: bool,
    },
    /// It goes no further: `Max-Forwards` has reached 0 (RFC 9110, section 7.6.2).
    LastHop,
    /// It asks for a tunnel, which a proxy in front of one program does not offer.
    Connect,
}

/// Turns a request into the one that the program gets.
pub(crate) fn to_program(parts: &mut request::Parts) -> Onward {
    if parts.method == Method::CONNECT {
        return Onward::Connect;
    }
    if matches!(parts.method, Method::OPTIONS | Method::TRACE)
        && let Some(hops) = max_forwards(&parts.headers)
    {
        let Some(left) = hops.checked_sub(1) else {
            return Onward::LastHop;
        };
        parts.headers.insert(MAX_FORWARDS, HeaderValue::from(left));
    }
    let upgrade = wanted_upgrade(parts);
    let trailers = mentions(&parts.headers, &TE, "trailers");
    remove_hop_by_hop(&mut parts.headers);
    parts.headers.remove(TE);
    if trailers {
        parts
            .headers
            .insert(TE, HeaderValue::from_static("trailers"));
        parts
            .headers
            .insert(CONNECTION, HeaderValue::from_static("te"));
    }
    if let Some(upgrade) = &upgrade {
        parts.headers.insert(UPGRADE, upgrade.clone());
        parts
            .headers
            .insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
    join_cookies(&mut parts.headers);
    to_origin_form(parts);
    parts.version = Version::HTTP_11;
    Onward::Forward {
        upgrade: upgrade.is_some(),
    }
}

/// Turns the program's answer into the one that the client gets.
pub(crate) fn to_client(parts: &mut response::Parts, upgraded: bool) {
    let upgrade = parts.headers.get(UPGRADE).cloned().filter(|_| upgraded);
    remove_hop_by_hop(&mut parts.headers);
    if let Some(upgrade) = upgrade {
        parts.headers.insert(UPGRADE, upgrade);
        parts
            .headers
            .insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
    parts.version = Version::HTTP_11;
}

fn max_forwards(headers: &HeaderMap) -> Option<u64> {
    headers.get(MAX_FORWARDS)?.to_str().ok()?.parse().ok()
}

/// Returns the protocol that an HTTP/1.1 client wants to change to (RFC 9110, section 7.8).
fn wanted_upgrade(parts: &request::Parts) -> Option<HeaderValue> {
    let may = parts.version == Version::HTTP_11;
    let wants = may && mentions(&parts.headers, &CONNECTION, "upgrade");
    parts.headers.get(UPGRADE).cloned().filter(|_| wants)
}

/// Whether a list field has this member.
fn mentions(headers: &HeaderMap, field: &HeaderName, member: &str) -> bool {
    members(headers, field).any(|one| one.eq_ignore_ascii_case(member))
}

fn members<'a>(headers: &'a HeaderMap, field: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(field).into_iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

/// Removes fields about one connection, and those that `Connection` names (RFC 9110, section 7.6.1). Fields that
/// are needed to read a message stay, whatever `Connection` says: otherwise a stranger could remove them.
fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = members(headers, &CONNECTION)
        .filter_map(|name| name.parse().ok())
        .filter(|name| !matches!(*name, HOST | CONTENT_LENGTH | COOKIE))
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in [
        CONNECTION,
        KEEP_ALIVE,
        PROXY_CONNECTION,
        TRANSFER_ENCODING,
        UPGRADE,
    ] {
        headers.remove(name);
    }
}

fn join_cookies(headers: &mut HeaderMap) {
    let mut cookies = headers.get_all(COOKIE).iter();
    if cookies.nth(1).is_none() {
        return;
    }
    let all: Vec<&[u8]> = headers
        .get_all(COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..])) {
        headers.insert(COOKIE, joined);
    }
}

/// Keeps path and query as they came, byte for byte; the authority goes into `Host` (RFC 9112, section 3.2.2).
fn to_origin_form(parts: &mut request::Parts) {
    if let Some(authority) = parts.uri.authority() {
        // A part of it before an `@` does not belong to the host name.
        let host = authority.as_str().rsplit('@').next().unwrap_or_default();
        if let Ok(host) = HeaderValue::from_str(host) {
            parts.headers.insert(HOST, host);
        }
    }
    let target = parts.uri.path_and_query().cloned();
    let target = target.unwrap_or_else(|| PathAndQuery::from_static("/"));
    parts.uri = Uri::from(target);
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};

    use super::*;

    fn forwarded(request: http::request::Builder) -> (Onward, request::Parts) {
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        let onward = to_program(&mut parts);
        (onward, parts)
    }

    fn shown(parts: &request::Parts) -> Vec<String> {
        let mut shown: Vec<_> = parts
            .headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        shown.sort();
        shown
    }

    const PLAIN: Onward = Onward::Forward { upgrade: false };

    #[test]
    fn what_is_about_one_connection_goes_no_further_and_the_rest_does() {
        let request = Request::get("/a%2Fb?c=%20d&&e")
            .header("Host", "example.com")
            .header("Connection", "close, X-Mine , Host, Content-Length")
            .header("Content-Length", "3")
            .header("X-Mine", "1")
            .header("Keep-Alive", "timeout=5")
            .header("Proxy-Connection", "keep-alive")
            .header("Transfer-Encoding", "chunked")
            .header("TE", "gzip;q=0.5")
            .header("Upgrade", "h2c")
            .header("X-Forwarded-For", "192.0.2.1");

        let (onward, parts) = forwarded(request);

        assert_eq!(onward, PLAIN);
        assert_eq!(
            shown(&parts),
            [
                "content-length: 3",
                "host: example.com",
                "x-forwarded-for: 192.0.2.1"
            ]
        );
        assert_eq!(parts.uri.to_string(), "/a%2Fb?c=%20d&&e");
    }

    #[test]
    fn a_wish_for_another_protocol_is_passed_on() {
        let request = Request::get("/")
            .header("Connection", "keep-alive, Upgrade")
            .header("Upgrade", "websocket");
        let (onward, parts) = forwarded(request);
        assert_eq!(onward, Onward::Forward { upgrade: true });
        assert_eq!(shown(&parts), ["connection: upgrade", "upgrade: websocket"]);

        let (mut answer, ()) = Response::builder()
            .status(101)
            .header("Connection", "Upgrade")
            .header("Upgrade", "websocket")
            .body(())
            .unwrap()
            .into_parts();
        to_client(&mut answer, true);
        assert_eq!(answer.headers["upgrade"], "websocket");
        assert_eq!(answer.headers["connection"], "upgrade");
    }

    #[test]
    fn the_host_is_what_the_target_says_where_it_says_one() {
        let request = Request::get("http://user@example.com:81/x?y").header("Host", "other");
        let (_, parts) = forwarded(request);
        assert_eq!(shown(&parts), ["host: example.com:81"]);
        assert_eq!(parts.uri.to_string(), "/x?y");

        let (_, parts) = forwarded(Request::options("*").header("Host", "example.com"));
        assert_eq!(parts.uri.to_string(), "*");
    }

    #[test]
    fn a_message_that_may_go_no_further_does_not() {
        let (onward, _) = forwarded(Request::options("/").header("Max-Forwards", "0"));
        assert_eq!(onward, Onward::LastHop);
        let (onward, parts) = forwarded(Request::options("/").header("Max-Forwards", "3"));
        assert_eq!(
            (onward, shown(&parts)),
            (PLAIN, vec!["max-forwards: 2".to_owned()])
        );
        let (onward, parts) = forwarded(Request::get("/").header("Max-Forwards", "0"));
        assert_eq!(
            (onward, shown(&parts)),
            (PLAIN, vec!["max-forwards: 0".to_owned()])
        );
        let connect = Request::builder().method("CONNECT").uri("example.com:443");
        assert_eq!(forwarded(connect).0, Onward::Connect);
    }

    #[test]
    fn trailers_are_asked_for_and_cookies_are_one_field() {
        let request = Request::get("/")
            .header("TE", "deflate, trailers")
            .header("Cookie", "a=1")
            .header("Cookie", "b=2");
        let (_, parts) = forwarded(request);
        assert_eq!(
            shown(&parts),
            ["connection: te", "cookie: a=1; b=2", "te: trailers"]
        );
    }
}
