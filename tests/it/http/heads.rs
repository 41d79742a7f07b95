//! Request heads that no service may see, and those that look alike and are fine.

use super::{
    peer::{Answer, Peer},
    stage::Stage,
};

/// Sends a request and returns its answer with the connection that it came on.
async fn asked(stage: &Stage, request: &str) -> (Answer, Peer) {
    let mut peer = stage.knock().await;
    peer.send(request).await;
    (peer.answer().await, peer)
}

#[tokio::test]
async fn a_request_whose_host_is_missing_doubled_or_bad_is_refused() {
    let stage = Stage::tcp().await;
    let refused = [
        ("GET /hello HTTP/1.1\r\n", "needs a Host"),
        ("GET http://x/hello HTTP/1.1\r\n", "needs a Host"),
        ("CONNECT x:443 HTTP/1.1\r\n", "needs a Host"),
        (
            "GET /hello HTTP/1.1\r\nhost: x\r\nhost: x\r\n",
            "more than one Host",
        ),
        (
            "GET /hello HTTP/1.1\r\nHost: x\r\nHOST: y\r\n",
            "more than one Host",
        ),
        (
            "GET /hello HTTP/1.0\r\nhost: x\r\nhost: y\r\n",
            "more than one Host",
        ),
        (
            "GET http://x/hello HTTP/1.1\r\nhost: x\r\nhost: y\r\n",
            "more than one Host",
        ),
        ("GET /hello HTTP/1.1\r\nhost: a b\r\n", "not a host"),
        ("GET /hello HTTP/1.1\r\nhost: a/b\r\n", "not a host"),
        ("GET /hello HTTP/1.1\r\nhost: me@x\r\n", "not a host"),
        ("GET /hello HTTP/1.1\r\nhost: x, y\r\n", "not a host"),
        ("GET /hello HTTP/1.1\r\nhost: x:y\r\n", "not a host"),
        ("GET /hello HTTP/1.1\r\nhost: x:99999\r\n", "not a host"),
        ("GET /hello HTTP/1.1\r\nhost: [::1\r\n", "not a host"),
        ("GET /hello HTTP/1.1\r\nhost: ::1\r\n", "not a host"),
        ("GET /hello HTTP/1.1\r\nhost: b\u{fc}cher\r\n", "not a host"),
        ("GET http://x/hello HTTP/1.1\r\nhost: a b\r\n", "not a host"),
        ("GET http://me@x/hello HTTP/1.1\r\nhost: x\r\n", "target"),
        ("GET /hello HTTP/1.0\r\nhost: a b\r\n", "not a host"),
    ];
    for (head, words) in refused {
        let (answer, mut peer) = asked(&stage, &format!("{head}\r\n")).await;
        assert_eq!(answer.status, 400, "{head:?}");
        assert!(answer.text().contains(words), "{head:?}: {}", answer.text());
        // Its sender and we may not see the same end of it.
        assert!(answer.says_close(), "{head:?}: {answer:?}");
        peer.closed().await;
    }
    stage.ends_clean().await;
}

#[tokio::test]
async fn a_request_whose_host_is_one_is_served() {
    let stage = Stage::tcp().await;
    let served = [
        "GET /hello HTTP/1.0\r\n",
        "GET /hello HTTP/1.0\r\nhost: x\r\n",
        // A target without a host has an empty one (RFC 9112, section 3.2).
        "GET /hello HTTP/1.1\r\nhost:\r\n",
        "GET /hello HTTP/1.1\r\nhost: \t x \r\n",
        "GET /hello HTTP/1.1\r\nhost: x:80\r\n",
        "GET /hello HTTP/1.1\r\nhost: x:\r\n",
        "GET /hello HTTP/1.1\r\nhost: shop_1.default.svc.cluster.local.\r\n",
        "GET /hello HTTP/1.1\r\nhost: 10.0.0.1:8080\r\n",
        "GET /hello HTTP/1.1\r\nhost: [fd00::1]:8080\r\n",
        "GET http://x/hello HTTP/1.1\r\nhost: y\r\n",
        "GET http://[fd00::1]:80/hello HTTP/1.1\r\nhost: y\r\n",
    ];
    for head in served {
        let (answer, _) = asked(&stage, &format!("{head}\r\n")).await;
        assert_eq!((answer.status, answer.text()), (200, "hello"), "{head:?}");
    }
    stage.ends_clean().await;
}

/// A body in a coding that nobody takes off would be handed on as if it were the content.
#[tokio::test]
async fn a_transfer_coding_that_is_not_chunked_alone_is_not_implemented() {
    let stage = Stage::tcp().await;
    let body = "3\r\nabc\r\n0\r\n\r\n";
    let post = |codings: &str| format!("POST /echo HTTP/1.1\r\nhost: x\r\n{codings}\r\n{body}");

    for codings in [
        "transfer-encoding: gzip, chunked\r\n",
        "transfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: deflate , Chunked\r\n",
        "transfer-encoding: identity, chunked\r\n",
        "transfer-encoding: chunked, chunked\r\n",
    ] {
        let (answer, mut peer) = asked(&stage, &post(codings)).await;
        assert_eq!(answer.status, 501, "{codings:?}");
        assert!(answer.text().contains("`chunked`"), "{}", answer.text());
        assert!(answer.says_close(), "{codings:?}");
        peer.closed().await;
    }
    // Where a body ends can't be known then, which is another thing (RFC 9112, sections 6.1 and 6.3).
    for request in [
        post("transfer-encoding: gzip\r\n"),
        post("transfer-encoding: chunked, gzip\r\n"),
        post("transfer-encoding: gzip\r\ncontent-length: 3\r\n"),
        format!("POST /echo HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n{body}"),
    ] {
        let (answer, mut peer) = asked(&stage, &request).await;
        assert_eq!(answer.status, 400, "{request:?}");
        peer.ended().await;
    }
    for codings in [
        "transfer-encoding: chunked\r\n",
        "Transfer-Encoding: CHUNKED\r\n",
    ] {
        let (answer, _) = asked(&stage, &post(codings)).await;
        assert_eq!((answer.status, answer.text()), (200, "abc"), "{codings:?}");
    }
    stage.ends_clean().await;
}

#[tokio::test]
async fn what_is_refused_gets_no_body_where_none_may_be() {
    let stage = Stage::tcp().await;
    let mut peer = stage.peer().await;

    peer.send("HEAD /hello HTTP/1.1\r\n\r\n").await;

    let head = String::from_utf8(peer.bytes("HTTP/1.1 400".len()).await).unwrap();
    assert_eq!(head, "HTTP/1.1 400");
    let mut rest = Vec::new();
    super::soon(
        "the end",
        tokio::io::AsyncReadExt::read_to_end(&mut peer.stream, &mut rest),
    )
    .await
    .unwrap();
    assert!(
        rest.ends_with(b"\r\n\r\n"),
        "{}",
        String::from_utf8_lossy(&rest)
    );
    stage.ends_clean().await;
}
