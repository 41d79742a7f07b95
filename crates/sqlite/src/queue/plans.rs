//! Tests of SQLite's query plans: no statement may take longer because there is history.

use rusqlite::Connection;

use super::{
    ends::{FREE, RELEASE_HELD},
    housekeeping::{FIND_OUTLIVED, FIND_OVERDUE, FORGET_KEYS},
    orders::FIND_DEAD,
    reserve::{FIND_QUEUE, FIND_RUNNABLE, PRIORITIES, TAKE},
    settle::{FIND_CLAIMED, WAS_SETTLED_BY},
};
use crate::schema;

/// Returns the steps of a statement on an empty database, a line each.
pub(in super::super) fn plan(sql: &str) -> String {
    let mut connection = Connection::open_in_memory().unwrap();
    schema::migrate(&mut connection).unwrap();
    let mut statement = connection
        .prepare(&format!("EXPLAIN QUERY PLAN {sql}"))
        .unwrap();
    for parameter in 1..=statement.parameter_count() {
        statement.raw_bind_parameter(parameter, 0).unwrap();
    }
    let mut rows = statement.raw_query();
    let mut steps = String::new();
    while let Some(row) = rows.next().unwrap() {
        steps += &row.get::<_, String>(3).unwrap();
        steps += "\n";
    }
    steps
}

#[test]
fn a_reserve_reads_a_range_of_an_index_and_sorts_nothing() {
    let plan = plan(FIND_RUNNABLE);
    assert!(
        plan.contains("INDEX jobs_waiting (queue=? AND priority=? AND run_at<?)"),
        "{plan}"
    );
    assert!(!plan.contains("TEMP B-TREE"), "{plan}");
}

#[test]
fn the_priorities_are_found_by_seeks() {
    let plan = plan(PRIORITIES);
    assert!(
        plan.contains("INDEX jobs_waiting (queue=? AND priority<?)"),
        "{plan}"
    );
}

#[test]
fn no_statement_scans_the_jobs_that_ended() {
    for sql in [
        FIND_QUEUE,
        FIND_RUNNABLE,
        TAKE,
        FIND_CLAIMED,
        WAS_SETTLED_BY,
        FIND_DEAD,
        FORGET_KEYS,
    ] {
        let plan = plan(sql);
        assert!(!plan.contains("SCAN"), "{sql}: {plan}");
    }
    for (sql, index) in [
        (RELEASE_HELD, "jobs_running"),
        (FREE, "jobs_running"),
        (FIND_OVERDUE, "jobs_deferred (queue=? AND run_at<?)"),
        (
            FIND_OUTLIVED,
            "jobs_ended (queue=? AND state=? AND ended_at>? AND ended_at<?)",
        ),
    ] {
        let plan = plan(sql);
        assert!(plan.contains(index), "{sql}: {plan}");
    }
}
