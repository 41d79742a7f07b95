//! Reads, which have their own connection and thread, so that a poll never waits for an fsync.

use std::{io, path::PathBuf};

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::{connection::explain, service::Service};
use lameduck_jobs::engine::{EngineError, vital::Vitals};

/// The handle on the reader's thread.
pub(super) struct Reader(Service<Query>);

type Query = Box<dyn FnOnce(&Connection, &PathBuf) + Send>;

impl Reader {
    /// Starts the thread.
    pub fn spawn(
        backlog: usize,
        connection: Connection,
        database: PathBuf,
        vitals: Vitals,
    ) -> io::Result<Self> {
        Service::<Query>::spawn("queue-reader", backlog, vitals, move |mut inbox| {
            while let Some(query) = inbox.next() {
                query(&connection, &database);
            }
        })
        .map(Self)
    }

    /// Calls `run`, which sees everything that was answered before.
    pub async fn call<T, F>(&self, run: F) -> Result<T, EngineError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let query: Query = Box::new(move |connection, database| {
            if reply.is_closed() {
                return;
            }
            let result =
                run(connection).map_err(|error| EngineError::Storage(explain(database, &error)));
            let _ = reply.send(result);
        });
        self.0.send(query).await?;
        match answer.await {
            Ok(answer) => answer,
            Err(_) => Err(self.0.gone().await),
        }
    }

    /// Returns when the reader's connection is closed.
    pub async fn close(&self) {
        self.0.close().await;
    }
}
