//! TLS: handshakes that stall, records that come in halves, and certificates that change.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use lameduck::http::{Tls, TlsError};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    peer::Peer,
    soon,
    stage::{Stage, Transport, closed},
    until,
};

/// A certificate for `localhost` in files.
pub struct Authority {
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    pub fn new(directory: &Path) -> Self {
        let authority = Self {
            cert: directory.join("tls.crt"),
            key: directory.join("tls.key"),
        };
        authority.renew();
        authority
    }

    /// Replaces both files, and returns the new certificate.
    pub fn renew(&self) -> Vec<u8> {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(&self.cert, made.cert.pem()).unwrap();
        std::fs::write(&self.key, made.signing_key.serialize_pem()).unwrap();
        made.cert.der().to_vec()
    }
}

/// A client that trusts this certificate and offers these protocols.
fn connector(authority: &Authority, alpn: &[&str]) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(&authority.cert).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    TlsConnector::from(Arc::new(config))
}

pub async fn connect_tls(
    address: SocketAddr,
    authority: &Authority,
    alpn: &[&str],
) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from("localhost").unwrap();
    let handshake = connector(authority, alpn).connect(name, stream);
    soon("a handshake", handshake).await
}

/// What a TLS client would send first: a record whose rest is missing.
const HALF_HELLO: &[u8] = &[22, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3];

#[tokio::test]
async fn a_handshake_that_stalls_is_given_up_after_the_header_timeout() {
    let stage = Stage::with(Transport::Tls, |settings| {
        settings.header_timeout = Duration::from_millis(100);
    })
    .await;
    let mut stalled = Peer::connect(stage.address()).await;
    stalled.send_bytes(HALF_HELLO).await;
    stalled.ended().await;
    until("it is counted", || {
        closed(&stage.drain, "header_timeout") == 1.0
    })
    .await;
    stage.ends_clean().await;
}

#[tokio::test]
async fn a_handshake_that_stalls_holds_up_nobody_else_and_is_cut_in_the_end() {
    let stage = Stage::over(Transport::Tls).await;
    let mut silent = Peer::connect(stage.address()).await;
    let mut stalled = Peer::connect(stage.address()).await;
    stalled.send_bytes(HALF_HELLO).await;
    until("both are accepted", || stage.connections() == 2).await;
    let mut other = stage.peer().await;
    stage.leave().await;
    assert!(other.get("/hello").await.says_close());
    other.closed().await;
    drop(other);
    stage.close_idle().await;
    // Who has said nothing at all is idle; half a hello may become a request.
    silent.ended().await;
    assert_eq!(stage.connections(), 1);
    stage.cut().await;
    stalled.ended().await;
    let (result, _) = stage.ends().await;
    let report = result.expect("no request was cut");
    assert_eq!(report.connections.cut, 1);
    assert_eq!(report.connections.cut_by["unknown receiving"], 1);
}

/// The last byte of a record is missing when idle connections are closed: it is not idle.
#[tokio::test]
async fn half_a_record_is_part_of_a_request() {
    let stage = Stage::over(Transport::Tls).await;
    let hold = stage.hold().await;
    // What the client would put on the wire, taken from it before it gets there.
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (mut far_read, mut far_write) = tokio::io::split(far);
    let tcp = TcpStream::connect(stage.address()).await.unwrap();
    let (mut tcp_read, mut tcp_write) = tcp.into_split();
    tokio::spawn(async move { tokio::io::copy(&mut tcp_read, &mut far_write).await });
    let name = ServerName::try_from("localhost").unwrap();
    let handshake = connector(stage.authority(), &[]).connect(name, near);
    tokio::pin!(handshake);
    let mut chunk = vec![0; 16 * 1024];
    let stream = loop {
        tokio::select! {
            stream = &mut handshake => break stream.unwrap(),
            n = far_read.read(&mut chunk) => tcp_write.write_all(&chunk[..n.unwrap()]).await.unwrap(),
        }
    };
    let mut peer = Peer::new(stream);
    // The client's Finished may still be in our hands.
    let first = async {
        let asked = peer.get("/hello");
        tokio::pin!(asked);
        loop {
            tokio::select! {
                answer = &mut asked => break answer,
                n = far_read.read(&mut chunk) => tcp_write.write_all(&chunk[..n.unwrap()]).await.unwrap(),
            }
        }
    };
    assert_eq!(soon("the first answer", first).await.text(), "hello");

    peer.send("GET /hello HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let n = far_read.read(&mut chunk).await.unwrap();
    tcp_write.write_all(&chunk[..n - 1]).await.unwrap();
    stage.close_idle().await;
    tcp_write.write_all(&chunk[n - 1..n]).await.unwrap();
    let answer = peer.answer().await;
    assert_eq!(answer.text(), "hello");
    assert!(answer.says_close());
    peer.closed().await;
    drop((peer, tcp_write, far_read));
    hold.release().await;
    stage.ends_clean().await;
}

/// Without a `close_notify` a client must take the end for a truncation (RFC 8446, section 6.1): `closed`
/// fails then.
#[tokio::test]
async fn an_idle_connection_is_closed_with_a_close_notify() {
    let stage = Stage::over(Transport::Tls).await;
    let hold = stage.hold().await;
    let mut fresh = stage.peer().await;
    let mut used = stage.peer().await;
    used.get("/hello").await;
    stage.close_idle().await;
    fresh.closed().await;
    used.closed().await;
    drop((fresh, used));
    hold.release().await;
    let (report, _) = stage.ends_clean().await;
    assert_eq!(report.connections.idle_closed, 2);
}

#[tokio::test]
async fn the_protocol_is_agreed_on_in_the_handshake() {
    let stage = Stage::over(Transport::Tls).await;
    let offers: [(&[&str], Option<&[u8]>); 4] = [
        (&["h2", "http/1.1"], Some(b"h2")),
        (&["h2"], Some(b"h2")),
        (&["http/1.1"], Some(b"http/1.1")),
        (&[], None),
    ];
    for (offered, agreed) in offers {
        let stream = connect_tls(stage.address(), stage.authority(), offered)
            .await
            .unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), agreed, "{offered:?}");
        match agreed {
            Some(b"h2") => {
                let (sender, connection) = h2::client::handshake(stream).await.unwrap();
                let connection = tokio::spawn(connection);
                let mut sender = sender.ready().await.unwrap();
                let request = http::Request::get("https://localhost/hello")
                    .body(())
                    .unwrap();
                let (answer, _) = sender.send_request(request, true).unwrap();
                assert_eq!(soon("an answer", answer).await.unwrap().status(), 200);
                connection.abort();
            }
            _ => assert_eq!(Peer::new(stream).get("/hello").await.text(), "hello"),
        }
    }
    stage.ends_clean().await;
}

/// Files are looked at every five seconds at the most, and only when somebody connects.
#[tokio::test]
async fn a_renewed_certificate_is_served_to_whoever_connects_next() {
    let stage = Stage::over(Transport::Tls).await;
    let authority = stage.authority();
    let mut before = stage.knock().await;
    let new = authority.renew();
    let renewed = async {
        loop {
            // Trusts the new one only.
            if let Ok(stream) = connect_tls(stage.address(), authority, &[]).await {
                let served = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
                break (served, stream);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let (served, stream) = soon("the new certificate", renewed).await;
    assert_eq!(served, new);
    assert_eq!(before.get("/hello").await.text(), "hello");
    assert_eq!(Peer::new(stream).get("/hello").await.text(), "hello");
    drop(before);
    stage.ends_clean().await;
}

#[test]
fn a_key_of_another_certificate_is_named() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (mine, other) = (Authority::new(one.path()), Authority::new(two.path()));
    let error = Tls::from_pem_files(&mine.cert, &other.key).unwrap_err();
    assert!(matches!(error, TlsError::Mismatch { .. }), "{error}");
    let text = error.to_string();
    for path in [&mine.cert, &other.key] {
        assert!(text.contains(path.to_str().unwrap()), "{text}");
    }
}

#[test]
fn a_file_that_holds_no_key_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new(directory.path());
    for (cert, key, named) in [
        (&authority.cert, &authority.cert, "the private key"),
        (&authority.cert, &directory.path().join("none"), "none"),
        (&directory.path().join("none"), &authority.key, "none"),
    ] {
        let error = Tls::from_pem_files(cert, key).unwrap_err();
        assert!(matches!(error, TlsError::Unreadable { .. }), "{error}");
        assert!(error.to_string().contains(named), "{error}");
    }
}

/// A file without a certificate in it is no certificate, at start and at a reload.
#[test]
fn an_empty_certificate_file_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new(directory.path());
    std::fs::write(&authority.cert, "").unwrap();
    let error = Tls::from_pem_files(&authority.cert, &authority.key).unwrap_err();
    assert!(
        error.to_string().contains(authority.cert.to_str().unwrap()),
        "{error}"
    );
}

/// A whole hello, and then nothing: no record is half there, but a handshake is.
#[tokio::test]
async fn a_handshake_that_stalls_between_two_records_is_given_up_too() {
    let stage = Stage::with(Transport::Tls, |settings| {
        settings.header_timeout = Duration::from_millis(100);
    })
    .await;
    let name = ServerName::try_from("localhost").unwrap();
    let config = connector(stage.authority(), &[]).config().clone();
    let mut client = rustls::ClientConnection::new(config, name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    let mut stalled = Peer::connect(stage.address()).await;
    stalled.send_bytes(&hello).await;
    stalled.ended().await;
    until("it is counted", || {
        closed(&stage.drain, "header_timeout") == 1.0
    })
    .await;
    stage.ends_clean().await;
}
