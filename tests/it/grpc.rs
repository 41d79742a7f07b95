//! gRPC through a drain, with tonic on both sides.

use std::time::Duration;

use lameduck::prelude::*;
use lameduck::{
    Lifecycle,
    lifecycle::{Outcome, Signals},
};
use tokio::{net::TcpListener, time::timeout};
use tonic::{Request, service::Routes, transport::Channel};
use tonic_health::{
    ServingStatus,
    pb::{HealthCheckRequest, health_client::HealthClient},
};

const SOON: Duration = Duration::from_secs(10);

fn whole_server() -> Request<HealthCheckRequest> {
    Request::new(HealthCheckRequest::default())
}

#[tokio::test]
async fn who_watches_health_is_told_to_go_and_sees_the_stream_end() {
    let (signals, trigger) = Signals::manual();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (reporter, health) = tonic_health::server::health_reporter();
    let lifecycle = Lifecycle::builder()
        .signals(signals)
        .grpc_health(reporter, &["shop.Orders"])
        .http("grpc", listener, Routes::new(health));
    let drain = lifecycle.drain().clone();
    let run = tokio::spawn(lifecycle.run());

    let channel = Channel::from_shared(format!("http://{address}")).unwrap();
    let mut client = HealthClient::new(channel.connect().await.unwrap());
    let mut watch = client.watch(whole_server()).await.unwrap().into_inner();
    let first = watch.message().await.unwrap().unwrap();
    assert_eq!(first.status, ServingStatus::Serving as i32);
    let held = drain.readiness_failed();

    trigger.fire();

    timeout(SOON, held).await.expect("readiness fails");
    let second = timeout(SOON, watch.message()).await.unwrap().unwrap();
    assert_eq!(
        second.map(|status| status.status),
        Some(ServingStatus::NotServing as i32)
    );
    let end = timeout(SOON, watch.message()).await.unwrap().unwrap();
    assert_eq!(end, None, "the stream ends, and without an error");
    let report = timeout(SOON, run).await.unwrap().unwrap().unwrap();
    assert_eq!(report.outcome, Outcome::Clean);
    assert!(report.seconds < 3.0, "{report:?}");
}

#[tokio::test]
async fn who_watches_health_is_told_of_a_check_that_fails_and_passes_again() {
    let (signals, trigger) = Signals::manual();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (reporter, health) = tonic_health::server::health_reporter();
    let lifecycle = Lifecycle::builder()
        .signals(signals)
        .grpc_health(reporter, &[])
        .http("grpc", listener, Routes::new(health));
    let storage = lifecycle.drain().readiness_check("storage");
    let run = tokio::spawn(lifecycle.run());
    let channel = Channel::from_shared(format!("http://{address}")).unwrap();
    let mut client = HealthClient::new(channel.connect().await.unwrap());
    let mut watch = client.watch(whole_server()).await.unwrap().into_inner();
    let mut told = async || {
        let told = timeout(SOON, watch.message()).await.unwrap().unwrap();
        told.map(|told| told.status)
    };
    assert_eq!(told().await, Some(ServingStatus::Serving as i32));

    storage.fail("no answer");
    assert_eq!(told().await, Some(ServingStatus::NotServing as i32));
    storage.pass();
    assert_eq!(told().await, Some(ServingStatus::Serving as i32));

    trigger.fire();
    assert_eq!(told().await, Some(ServingStatus::NotServing as i32));
    timeout(SOON, run).await.unwrap().unwrap().unwrap();
}
