//! Teardown hooks and reporters that fail in every way: each is told of, none takes another one with it.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use lameduck::{
    Error, Lifecycle,
    lifecycle::{Outcome, Signals},
};
use tokio::time::Instant;

type Fine = Result<(), io::Error>;

/// A program with hooks of every kind, the last registered first to run.
fn program(told: &Arc<AtomicUsize>) -> (Lifecycle, lameduck::lifecycle::Trigger) {
    let (signals, trigger) = Signals::manual();
    let second = Duration::from_secs(1);
    let (first, second_told) = (told.clone(), told.clone());
    let lifecycle = Lifecycle::builder()
        .signals(signals)
        .teardown("fine", |_| async { Fine::Ok(()) })
        .teardown_within("hangs", second, |_| std::future::pending::<Fine>())
        .teardown("fails", |_| async {
            Fine::Err(io::Error::other("the broker is gone"))
        })
        .teardown("panics", |_| async {
            if true {
                panic!("in its future");
            }
            Fine::Ok(())
        })
        .teardown("panics at once", |_| -> std::future::Ready<Fine> {
            panic!("before its future");
        })
        .on_report("first", move |_| async move {
            first.fetch_add(1, SeqCst);
            Fine::Ok(())
        })
        .on_report("panics", |_| async {
            if true {
                panic!("in a reporter");
            }
            Fine::Ok(())
        })
        .on_report("panics at once", |_| -> std::future::Ready<Fine> {
            panic!("before its future");
        })
        .on_report("second", move |_| async move {
            second_told.fetch_add(1, SeqCst);
            Fine::Ok(())
        });
    (lifecycle, trigger)
}

#[tokio::test(start_paused = true)]
async fn whatever_a_hook_does_the_next_one_runs_and_all_are_told_of() {
    let told = Arc::new(AtomicUsize::new(0));
    let (lifecycle, trigger) = program(&told);
    let begin = Instant::now();
    trigger.fire();

    let error = lifecycle.run().await.expect_err("a hook failed");

    let Error::Teardown { name, report, .. } = &error else {
        panic!("{error:?}");
    };
    assert_eq!(name, "panics at once", "the first that failed");
    assert_eq!(report.outcome, Outcome::HookFailed);
    let hooks: Vec<(&str, &str)> = report
        .hooks
        .iter()
        .map(|hook| (hook.name.as_str(), hook.error.as_deref().unwrap_or("")))
        .collect();
    assert_eq!(hooks.len(), 5, "{hooks:#?}");
    let expected = [
        ("panics at once", "panicked"),
        ("panics", "panicked"),
        ("fails", "the broker is gone"),
        ("hangs", "did not end within its bound"),
        ("fine", ""),
    ];
    for ((name, error), (expected, words)) in hooks.into_iter().zip(expected) {
        assert_eq!(name, expected);
        assert!(error.contains(words), "{name}: {error}");
    }
    assert_eq!(told.load(SeqCst), 2, "both reporters that work were told");
    // One second for the hook that hangs, and nothing waited out beside it.
    assert!(
        begin.elapsed() < Duration::from_millis(1_500),
        "{:?}",
        begin.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_last_hook_that_hangs_is_told_of_too() {
    let (signals, trigger) = Signals::manual();
    let lifecycle = Lifecycle::builder()
        .signals(signals)
        .grace(Duration::from_secs(2))
        .teardown("hangs", |_| std::future::pending::<Fine>());
    trigger.fire();

    let error = lifecycle.run().await.expect_err("a hook failed");

    assert!(matches!(&error, Error::Teardown { name, .. } if name == "hangs"));
    assert_eq!(
        format!("{error:?}"),
        "teardown hook 'hangs' failed: did not end within its bound",
        "what main prints is a sentence"
    );
}
