//! Schemas of what a request may contain: the patterns and formats of the OpenAPI document.
//!
//! A value that fits a pattern is accepted. The server also accepts durations in other forms (`90 minutes`, `PT90M`):
//! a pattern for those would be too long to be of use to anybody.

use utoipa::{
    PartialSchema, ToSchema,
    openapi::{KnownFormat, ObjectBuilder, RefOr, Schema, SchemaFormat, schema::Type},
};

/// How long a job is put off: up to 365 days.
pub(super) struct Delay;

/// How long something may take: from a millisecond to 7 days.
pub(super) struct Time;

/// An idempotency key, as a header gives it.
pub(super) struct Key;

/// An instant, as a header gives it. Public generators make no header of a format other than plain text.
pub(super) struct Instant;

/// A queue's name.
pub(super) struct Name;

/// The schema of bytes.
pub(super) struct Binary;

// The first alternative is a sum of several units; each of the others is one unit alone.
const DELAY: &str = "^(([0-9]{1,2}d)?([0-9]{1,2}h)?([0-9]{1,2}m)?([0-9]{1,2}s)?([0-9]{1,3}ms)?\
    |[12][0-9]{2}d|3[0-5][0-9]d|36[0-5]d|[0-9]{3}h|[0-9]{3,5}m|[0-9]{3,7}s|[0-9]{4,9}ms)$";

const TIME: &str = "^(([1-6]d)?([1-9]h|1[0-9]h|2[0-3]h)?([1-9]m|[1-5][0-9]m)?([1-9]s|[1-5][0-9]s)?\
    ([1-9][0-9]{0,2}ms)?|7d|2[4-9]h|[3-9][0-9]h|1[0-5][0-9]h|16[0-8]h|[6-9][0-9]m|[1-9][0-9]{2,3}m|[6-9][0-9]s\
    |[1-9][0-9]{2,4}s|[1-9][0-9]{3,7}ms)$";

const DURATIONS: [&str; 3] = ["30s", "1h30m", "2d"];

/// Pattern of an instant as in RFC 3339, without the days from the 29th on, which not every month has.
const INSTANT: &str = "^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]\
    (\\.[0-9]{1,9})?(Z|[+-](0[0-9]|1[0-4]):[0-5][0-9])$";

/// Implements the schema of a text by a pattern, with examples that fit it.
macro_rules! described {
    ($name:ident: $length:expr, $pattern:expr, $examples:expr) => {
        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                let (min, max): (usize, Option<usize>) = $length;
                ObjectBuilder::new()
                    .schema_type(Type::String)
                    .min_length(Some(min))
                    .max_length(max)
                    .pattern(Some($pattern))
                    .examples($examples)
                    .build()
                    .into()
            }
        }

        impl ToSchema for $name {}
    };
}

described!(Delay: (2, None), DELAY, DURATIONS);
described!(Time: (2, None), TIME, DURATIONS);
described!(Instant: (20, Some(35)), INSTANT, ["2027-01-01T06:00:00Z"]);
described!(Key: (1, Some(255)), "^[!-~]([ -~]{0,253}[!-~])?$", ["order-17"]);
described!(Name: (1, Some(63)), "^[a-z0-9][a-z0-9_-]{0,62}$", ["default"]);

impl PartialSchema for Binary {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::Binary)))
            .build()
            .into()
    }
}

impl ToSchema for Binary {}

/// Returns the schema of how long to wait for the next message about an outcome.
pub(super) fn within() -> RefOr<Schema> {
    let mut schema = Time::schema();
    if let RefOr::T(Schema::Object(text)) = &mut schema {
        text.description = Some(
            "How long to wait for the next word, as in `30m`; from `1ms` to 7 days (`7d`). Then the attempt has failed."
                .to_owned(),
        );
    }
    schema
}
