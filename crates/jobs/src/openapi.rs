//! OpenAPI schemas of the words that describe jobs and their runs.

use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ObjectBuilder, RefOr, Schema, Type},
};

use crate::{
    job::{RunEnd, State},
    workers::Reason,
};

impl PartialSchema for State {
    fn schema() -> RefOr<Schema> {
        words(Self::ALL.map(Self::as_str))
    }
}

impl ToSchema for State {}

impl PartialSchema for Reason {
    fn schema() -> RefOr<Schema> {
        words([Self::Unreachable, Self::Overloaded].map(Self::as_str))
    }
}

impl ToSchema for Reason {}

impl PartialSchema for RunEnd {
    fn schema() -> RefOr<Schema> {
        // A match, so that a new variant is not forgotten here.
        let word = |end| match end {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Released => "released",
            Self::Postponed => "postponed",
            Self::Cancelled => "cancelled",
            Self::Lost => "lost",
        };
        words(
            [
                Self::Completed,
                Self::Failed,
                Self::Released,
                Self::Postponed,
                Self::Cancelled,
                Self::Lost,
            ]
            .map(word),
        )
    }
}

impl ToSchema for RunEnd {}

fn words<const N: usize>(words: [&'static str; N]) -> RefOr<Schema> {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some(words))
        .build()
        .into()
}
