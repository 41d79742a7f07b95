//! A service of workers: jobs come in over HTTP, and an async function does them.

use std::{error::Error, sync::Arc};

use lameduck::prelude::*;
use lameduck::{
    Lifecycle,
    api::{self, Api, ApiQueue},
    http::Listener,
    jobs::{
        engine::sqlite::{SqliteEngine, SqliteOptions},
        handler::{Context, Failure, function},
        workers::Pool,
    },
};

async fn greet(name: String, _context: Context) -> Result<String, Failure> {
    Ok(format!("hello {name}"))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8080".into());
    let options = SqliteOptions::default();
    let engine = Arc::new(SqliteEngine::open("worker-data".as_ref(), options)?);
    let pool = Pool::new("greetings".parse()?, Arc::new(function(greet)));
    let lifecycle = Lifecycle::builder();
    let queue = ApiQueue::new(pool.queue.clone());
    let api = Api::new(engine.clone(), vec![queue], lifecycle.drain().clone());
    lifecycle
        .workers(engine, vec![pool])
        .http("api", Listener::bind(&address).await?, api::router(api))
        .run()
        .await?;
    Ok(())
}
