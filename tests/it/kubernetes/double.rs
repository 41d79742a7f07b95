//! The double is held to what kube's own `watcher` expects of an API server, by either of its strategies.

use std::{pin::Pin, time::Duration};

use futures_util::{Stream, StreamExt};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{
    Api, Client,
    runtime::watcher::{self, Event, watcher},
};
use tokio::time::timeout;

use super::stage::{ME, PEER, SERVICE, SLICE, Stage, each};
use crate::fake_api::{Fault, Gone, NAMESPACE, On, Resource, Verb};

type Events = Pin<Box<dyn Stream<Item = Result<Event<EndpointSlice>, watcher::Error>>>>;

/// The next event, in a word and the slice's name.
async fn next(events: &mut Events) -> (&'static str, String) {
    let event = timeout(Duration::from_secs(10), events.next()).await;
    let name = |slice: EndpointSlice| slice.metadata.name.unwrap();
    match event.expect("an event").expect("it never ends") {
        Ok(Event::Init) => ("init", String::new()),
        Ok(Event::InitApply(slice)) => ("listed", name(slice)),
        Ok(Event::InitDone) => ("done", String::new()),
        Ok(Event::Apply(slice)) => ("applied", name(slice)),
        Ok(Event::Delete(slice)) => ("deleted", name(slice)),
        Err(error) => ("error", error.to_string()),
    }
}

/// All there is, in whatever order.
async fn initial(events: &mut Events) -> Vec<String> {
    assert_eq!(next(events).await.0, "init");
    let mut listed = Vec::new();
    loop {
        match next(events).await {
            ("listed", name) => listed.push(name),
            ("done", _) => break,
            other => panic!("{other:?}"),
        }
    }
    listed.sort();
    listed
}

#[test]
fn kubes_own_watcher_is_content_with_it() {
    let config = || watcher::Config::default().timeout(1);
    let rows = [
        ("lists and watches", config().page_size(2)),
        ("streams its lists", config().streaming_lists()),
    ];
    each(rows, |config| async move {
        let stage = Stage::set().await;
        let names = ["web-b", "web-c", "web-d", "web-e"];
        for name in names {
            stage.api.place(name, SERVICE, &[PEER]);
        }
        let client = Client::try_from(stage.api.config()).unwrap();
        let slices = Api::<EndpointSlice>::namespaced(client, NAMESPACE);
        let mut events: Events = Box::pin(watcher(slices, config));
        let all = [&[SLICE][..], &names].concat();
        assert_eq!(initial(&mut events).await, all);

        stage.api.set_ready(ME, false);
        stage.api.sync(SERVICE);
        assert_eq!(next(&mut events).await, ("applied", SLICE.to_owned()));
        stage.api.remove(Resource::EndpointSlices, "web-b");
        assert_eq!(next(&mut events).await, ("deleted", "web-b".to_owned()));
        stage.api.place("web-b", SERVICE, &[ME]);
        assert_eq!(next(&mut events).await, ("applied", "web-b".to_owned()));

        // The watch ends by itself, and the next goes on where it was.
        let watches = stage.api.count(Verb::Watch, Resource::EndpointSlices);
        let again = stage
            .api
            .asked(Verb::Watch, Resource::EndpointSlices, watches + 1);
        tokio::select! {
            () = again => {}
            event = next(&mut events) => panic!("{event:?}"),
        }
        stage.api.place("web-c", SERVICE, &[ME]);
        assert_eq!(next(&mut events).await, ("applied", "web-c".to_owned()));

        let watches = On::verb(Verb::Watch, Resource::EndpointSlices);
        stage.api.fail_times(watches, Fault::Gone(Gone::Event), 1);
        assert_eq!(next(&mut events).await.0, "error", "too old");
        assert_eq!(initial(&mut events).await, all);
    });
}
