//! Targets that can't be reached, and those that are reached by TLS.

use std::{net::SocketAddr, time::Duration};

use axum::{Router, response::IntoResponse, routing::post};
use lameduck::jobs::handler::{Handler, http::Http};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    time::timeout,
};

use super::{
    done, postponed, run,
    target::{Authority, Target, Wire},
};

/// An address where nobody listens. One of its own, so that no other test's listener gets the port.
async fn nobody(host: &str) -> SocketAddr {
    let listener = TcpListener::bind((host, 0)).await.unwrap();
    listener.local_addr().unwrap()
}

fn to(address: SocketAddr) -> Http {
    Http::new(&format!("http://{address}/jobs")).unwrap()
}

// === out of reach ===

#[tokio::test]
async fn a_refused_connection_costs_no_attempt() {
    let (error, wait) = postponed(run(&to(nobody("127.77.0.1").await)).await);

    assert!(error.contains("can't be reached"), "{error}");
    assert!(error.contains("Connection refused"), "{error}");
    assert!((0.5..=1.0).contains(&wait.as_secs_f64()), "{wait:?}");
}

#[tokio::test]
async fn a_host_that_does_not_exist_costs_no_attempt() {
    let http = Http::new("http://nobody.invalid/jobs").unwrap();
    let (error, _) = postponed(run(&http.connect_timeout(Duration::from_secs(2))).await);
    assert!(
        error.contains("http://nobody.invalid/jobs can't be reached"),
        "{error}"
    );
}

#[tokio::test]
async fn a_host_that_does_not_answer_costs_no_attempt() {
    // A listener whose backlog is full: the kernel drops whoever comes now.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let full = socket.listen(1).unwrap();
    let address = full.local_addr().unwrap();
    let mut queued = Vec::new();
    while let Ok(stream) = timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
        queued.push(stream.unwrap());
    }

    let http = to(address).connect_timeout(Duration::from_millis(100));

    postponed(run(&http).await);
}

#[tokio::test]
async fn its_patience_is_five_minutes_unless_somebody_says_otherwise() {
    let http = to(nobody("127.77.0.3").await);
    assert_eq!(http.postpones_for(), Some(Duration::from_secs(300)));
    let impatient = http.patience(Duration::ZERO);
    assert_eq!(impatient.postpones_for(), Some(Duration::ZERO));
}

// === connections that go stale ===

#[tokio::test]
async fn a_kept_connection_that_the_target_closed_harms_nobody() {
    let wire = Wire::start().await;
    let http = wire.http();
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

    for _ in 0..5 {
        // Closes the connection after it has promised, by HTTP/1.1, to keep it.
        let (verdict, ()) = tokio::join!(run(&http), wire.answer(answer));
        assert_eq!(done(verdict), "ok");
        // The client hears of it when its runtime next looks at its sockets.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }
}

// === TLS ===

#[tokio::test]
async fn an_authority_of_the_operators_own_is_trusted() {
    for protocol in ["http/1.1", "h2"] {
        let (wire, authority) = (Wire::start().await, Authority::new(protocol));
        let http = wire.https().root_certificate_pem(&authority.pem).unwrap();
        let router = Router::new().route(
            "/jobs",
            post(async |request: axum::extract::Request| {
                format!("{:?}", request.version()).into_response()
            }),
        );
        let serve = async {
            let stream = authority.accept(&wire).await.unwrap();
            let service = hyper_util::service::TowerToHyperService::new(router);
            let stream = hyper_util::rt::TokioIo::new(stream);
            let server =
                hyper_util::server::conn::auto::Builder::new(hyper_util::rt::TokioExecutor::new());
            let _ = server.serve_connection(stream, service).await;
        };

        let verdict = tokio::select! {
            verdict = run(&http) => verdict,
            () = serve => panic!("the connection ended before its answer"),
        };

        let version = if protocol == "h2" {
            "HTTP/2.0"
        } else {
            "HTTP/1.1"
        };
        assert_eq!(done(verdict), version);
    }
}

#[tokio::test]
async fn a_target_that_nobody_vouches_for_gets_nothing() {
    let (wire, authority) = (Wire::start().await, Authority::new("h2"));
    let http = wire.https();

    let (verdict, accepted) = tokio::join!(run(&http), authority.accept(&wire));

    let (error, _) = postponed(verdict);
    assert!(error.contains("certificate"), "{error}");
    assert!(accepted.is_err());
}

#[tokio::test]
async fn plain_http_behind_https_costs_no_attempt() {
    let target = Target::start(|| "never".into_response()).await;
    let http = Http::new(&format!("https://{}/jobs", target.address)).unwrap();
    postponed(run(&http).await);
}

// === HTTP/2 ===

/// Takes a connection, refuses so many streams as a peer in a drain does, and answers the next.
async fn refuse(wire: &Wire, authority: &Authority, refusals: usize) {
    let stream = authority.accept(wire).await.unwrap();
    let mut connection = h2::server::handshake(stream).await.unwrap();
    let mut refused = 0;
    while let Some(Ok((_, mut respond))) = connection.accept().await {
        if refused < refusals {
            refused += 1;
            respond.send_reset(h2::Reason::REFUSED_STREAM);
        } else {
            let answer = http::Response::new(());
            respond.send_response(answer, true).unwrap();
        }
    }
}

#[tokio::test]
async fn what_an_http2_peer_refused_unread_is_sent_again() {
    let (wire, authority) = (Wire::start().await, Authority::new("h2"));
    let http = wire.https().root_certificate_pem(&authority.pem).unwrap();

    let verdict = tokio::select! {
        verdict = run(&http) => verdict,
        () = refuse(&wire, &authority, 2) => panic!("the connection ended before its answer"),
    };

    done(verdict);
}

#[tokio::test]
async fn what_an_http2_peer_refuses_for_ever_costs_no_attempt() {
    let (wire, authority) = (Wire::start().await, Authority::new("h2"));
    let http = wire.https().root_certificate_pem(&authority.pem).unwrap();

    let verdict = tokio::select! {
        verdict = run(&http) => verdict,
        () = refuse(&wire, &authority, usize::MAX) => panic!("the connection ended before its answer"),
    };

    postponed(verdict);
}
