//! Jobs page by page.

use std::collections::BTreeSet;

use serde_json::Value;

use super::stage::{MAIL, Stage, completed, id_of};

/// Follows the pages from this one on, with something happening between two of them.
async fn pages(stage: &Stage, first: &str, mut meanwhile: impl AsyncFnMut()) -> Vec<Vec<String>> {
    let mut pages = Vec::new();
    let mut next = Some(first.to_owned());
    while let Some(path) = next {
        let answer = stage.get(&path).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let page = answer.json();
        pages.push(page["jobs"].as_array().unwrap().iter().map(id_of).collect());
        next = page["next"].as_str().map(str::to_owned);
        meanwhile().await;
    }
    pages
}

#[tokio::test]
async fn whoever_stays_is_on_exactly_one_page_whatever_happens_meanwhile() {
    let stage = Stage::start().await;
    let mut stay = BTreeSet::new();
    let mut go = Vec::new();
    for n in 0..40 {
        let id = stage.submit("x").await;
        match n % 4 {
            0 => go.push(id),
            _ => drop(stay.insert(id)),
        }
    }

    let listed = pages(&stage, &format!("{MAIL}?limit=7"), async || {
        stage.submit("new").await;
        if let Some(id) = go.pop() {
            stage.order(&id, "cancel").await;
        }
    })
    .await;

    assert!(listed.iter().rev().skip(1).all(|page| page.len() == 7));
    let all: Vec<&String> = listed.iter().flatten().collect();
    let once: BTreeSet<&String> = all.iter().copied().collect();
    assert_eq!(all.len(), once.len(), "somebody is on two pages");
    assert!(
        stay.iter().all(|id| once.contains(id)),
        "somebody is on none"
    );
}

#[tokio::test]
async fn what_ended_is_listed_latest_first() {
    let stage = Stage::start().await;
    let mut ended = Vec::new();
    for _ in 0..5 {
        ended.insert(0, stage.submit("x").await);
        stage.settle(stage.reserve().await, completed("")).await;
    }
    stage.submit("still waits").await;

    let listed = pages(
        &stage,
        &format!("{MAIL}?state=completed&limit=2"),
        async || {},
    )
    .await;

    assert_eq!(listed.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 1]);
    assert_eq!(listed.concat(), ended);
}

#[tokio::test]
async fn a_page_shows_jobs_as_they_stand() {
    let stage = Stage::start().await;
    let id = stage.submit("x").await;

    let page = stage.get(MAIL).await.json();
    let mut job = stage.job(&id).await;

    let job = job.as_object_mut().unwrap();
    job.retain(|fact, _| !fact.starts_with("result") && fact != "history");
    assert_eq!(page["jobs"][0], Value::Object(job.clone()));
    assert_eq!(page["next"], Value::Null);
    let none = stage.get("/v1/queues/resize/jobs?state=dead").await.json();
    assert_eq!(none["jobs"], serde_json::json!([]));
}

#[tokio::test]
async fn a_page_that_cannot_be_is_refused() {
    let stage = Stage::start().await;
    for (query, word) in [
        ("state=lost", "cancelled"),
        ("limit=0", "1 to 500"),
        ("limit=501", "1 to 500"),
        ("limit=all", "1 to 500"),
        ("after=here", "next"),
        ("page=2", "page"),
    ] {
        let detail = stage.get(&format!("{MAIL}?{query}")).await.problem(400);
        assert!(detail.contains(word), "{query}: {detail}");
    }
    for limit in ["0", "1001", "2000", "all", "-1"] {
        let path = format!("/v1/drains?limit={limit}");
        let detail = stage.get(&path).await.problem(400);
        assert!(detail.contains("from 1 to 1000"), "{limit}: {detail}");
    }
    assert_eq!(stage.get("/v1/drains?limit=1000").await.status, 200);
}
