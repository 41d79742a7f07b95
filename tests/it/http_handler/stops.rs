//! Told to stop, and cut.

use lameduck::jobs::handler::{Context, Handler, Verdict, http::Http};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinHandle,
};

use super::{
    context, done, job,
    target::{Wire, until_closed},
};

fn start(http: Http) -> (Context, JoinHandle<Verdict>) {
    let context = context();
    let task = tokio::spawn({
        let context = context.clone();
        async move { http.run(&job("hello"), context).await }
    });
    (context, task)
}

#[tokio::test]
async fn what_was_told_to_stop_before_it_began_sends_nothing() {
    // Nobody listens: a request would be postponed.
    let http = Http::new("http://127.77.0.5:1/jobs").unwrap();
    let (stopped, cut) = (context(), context());
    stopped.stop.cancel();
    cut.cut.cancel();

    assert_eq!(http.run(&job("hello"), stopped).await, Verdict::Released);
    assert_eq!(http.run(&job("hello"), cut).await, Verdict::Released);
}

#[tokio::test]
async fn a_request_of_which_nothing_was_sent_is_given_back_when_told_to_stop() {
    let wire = Wire::start().await;
    let (context, task) = start(wire.https());
    // A TLS handshake has begun, and is not answered.
    let mut stream = wire.accept().await;
    stream.read_u8().await.unwrap();

    context.stop.cancel();

    assert_eq!(task.await.unwrap(), Verdict::Released);
    until_closed(&mut stream).await;
}

#[tokio::test]
async fn a_request_on_its_way_goes_on_when_told_to_stop() {
    let wire = Wire::start().await;
    let (context, task) = start(wire.http());
    let mut stream = wire.request().await;

    context.stop.cancel();
    // Enough for it to give up, if it did.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }

    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    stream.write_all(answer).await.unwrap();
    assert_eq!(done(task.await.unwrap()), "ok");
}

#[tokio::test]
async fn a_request_that_is_cut_is_given_back_and_its_target_sees_it() {
    let wire = Wire::start().await;
    let (context, task) = start(wire.http());
    let mut stream = wire.request().await;

    context.stop.cancel();
    context.cut.cancel();

    assert_eq!(task.await.unwrap(), Verdict::Released);
    until_closed(&mut stream).await;
}

#[tokio::test]
async fn a_cut_in_the_middle_of_an_answer_gives_the_job_back() {
    let wire = Wire::start().await;
    let (context, task) = start(wire.http());
    let mut stream = wire.request().await;
    let half = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf of";
    stream.write_all(half).await.unwrap();

    context.cut.cancel();

    assert_eq!(task.await.unwrap(), Verdict::Released);
    until_closed(&mut stream).await;
}
