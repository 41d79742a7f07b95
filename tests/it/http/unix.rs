//! Unix sockets: their files come and go.

use std::io;

use lameduck::http::Listener;
use tokio::net::UnixStream;

use super::{
    peer::Peer,
    stage::{Stage, Transport},
};

#[tokio::test]
async fn the_file_is_there_while_it_is_served_and_gone_afterwards() {
    let stage = Stage::over(Transport::Unix).await;
    let path = stage.socket_path();
    let hold = stage.hold().await;
    let mut peer = stage.peer().await;
    assert_eq!(
        peer.get("/whoami").await.text(),
        "in time, from unix socket, serving"
    );
    stage.leave().await;
    assert!(path.exists(), "late ones are served");
    assert!(stage.peer().await.get("/hello").await.says_close());
    drop(peer);
    stage.close().await;
    super::until("the file is removed", || !path.exists()).await;
    hold.release().await;
    stage.ends_clean().await;
}

#[tokio::test]
async fn a_file_that_nobody_answers_on_is_replaced_and_one_in_use_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let address = format!("unix:{}", path.display());
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "the dead leave it behind");

    let listener = Listener::bind(&address).await.unwrap();
    assert_eq!(listener.local_addr().unwrap(), address);
    UnixStream::connect(&path).await.unwrap();

    let second = Listener::bind(&address).await.unwrap_err();
    assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
    UnixStream::connect(&path).await.expect("left alone");
    drop(listener);
    assert!(!path.exists());
}

#[tokio::test]
async fn what_is_no_socket_is_never_removed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("precious");
    std::fs::write(&path, "data").unwrap();
    let error = Listener::bind(&format!("unix:{}", path.display())).await;
    assert_eq!(error.unwrap_err().kind(), io::ErrorKind::AddrInUse);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "data");
}

/// A successor that has bound the same path meanwhile keeps its file.
#[tokio::test]
async fn the_file_of_a_successor_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let address = format!("unix:{}", path.display());
    let ours = Listener::bind(&address).await.unwrap();
    std::fs::remove_file(&path).unwrap();
    let successor = Listener::bind(&address).await.unwrap();
    drop(ours);
    let mut peer = Peer::new(UnixStream::connect(&path).await.expect("still found"));
    peer.send("GET").await;
    drop(successor);
}
