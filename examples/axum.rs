//! An axum service whose pods can be rolled at any moment.

use axum::{Router, routing::get};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let listener = TcpListener::bind("127.0.0.1:8080").await?;
    let router = Router::new().route("/", get(|| async { "hello\n" }));
    lameduck::serve(listener, router).await?;
    Ok(())
}
