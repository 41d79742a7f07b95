//! The drain ledger over HTTP.

use std::sync::Arc;

use axum::{Json, extract::State};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::{
    Problem, Service,
    extract::{Asked, limit},
};
use lameduck_jobs::{job::ProcessId, ledger::DrainRow};

/// Number of process runs in an answer if the query does not say.
const USUAL: usize = 20;

/// What `/v1/drains` answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Drains {
    /// Process runs, the latest first.
    pub drains: Vec<DrainView>,
}

/// A process run as it is shown: the ledger's row, with the report as an object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DrainView {
    /// Which process run.
    #[schema(value_type = String, format = "uuid")]
    pub process: ProcessId,
    /// The name of its machine, which in a cluster is that of its Pod; with PostgreSQL.
    pub host: Option<String>,
    /// When it began.
    pub started_at: Timestamp,
    /// T0, once a drain has begun.
    pub began_at: Option<Timestamp>,
    /// The drain's id.
    pub drain_id: Option<String>,
    /// Why it was asked to stop.
    pub cause: Option<String>,
    /// When its row was closed; of one that was killed: when somebody found out.
    pub ended_at: Option<Timestamp>,
    /// How it ended; none while it lives.
    pub outcome: Option<String>,
    /// How long the drain took.
    pub seconds: Option<f64>,
    /// The whole drain report, where there is one.
    pub report: Option<Value>,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Limit {
    /// How many process runs, 1 to 1000. Default 20.
    #[param(value_type = Option<u16>, minimum = 1, maximum = 1000)]
    limit: Option<String>,
}

/// The drain ledger: how the latest processes ended, the living one first.
#[utoipa::path(
    get, path = "/v1/drains", operation_id = "list_drains", tag = "drains",
    params(Limit),
    responses(
        (status = 200, description = "The process runs", body = Drains),
        (status = 400, description = "A number that can't be", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The storage failed; see Retry-After", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn drains(
    State(service): State<Arc<Service>>,
    Asked(asked): Asked<Limit>,
) -> Result<Json<Drains>, Problem> {
    let limit = limit(asked.limit.as_deref(), USUAL, Drains::MOST)?;
    let rows = service.engine.drains(limit).await?;
    Ok(Json(rows.into()))
}

impl Drains {
    /// Maximum number of process runs in an answer: as many as an engine keeps.
    pub const MOST: usize = 1_000;
}

impl From<Vec<DrainRow>> for Drains {
    fn from(rows: Vec<DrainRow>) -> Self {
        Self {
            drains: rows.into_iter().map(DrainView::from).collect(),
        }
    }
}

impl From<DrainRow> for DrainView {
    fn from(row: DrainRow) -> Self {
        Self {
            process: row.process,
            host: row.host,
            started_at: row.started_at,
            began_at: row.began_at,
            drain_id: row.drain_id,
            cause: row.cause,
            ended_at: row.ended_at,
            outcome: row.outcome,
            seconds: row.seconds,
            // This is JSON that we wrote, unless somebody else wrote into the database.
            report: row
                .report
                .and_then(|report| serde_json::from_str(&report).ok()),
        }
    }
}
