//! Follows the EndpointSlices that hold this pod, while the drain is in its lame-duck phase.
//!
//! ```text
//!  T0   list, by pages ─▶ own slices ─▶ one watch each, by name, from the list's version
//!                            ▲                     │ entry vanished while it was ready
//!                            └── list, not older ──┘ (it may have moved)
//! ```
//!
//! After the first list, a drain therefore costs one watch for each slice that holds the pod (mostly one per
//! Service and address family), whatever the size of the Service.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::{
    api::{ListParams, ObjectList},
    core::{WatchEvent, params::VersionMatch},
};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    super::{
        api::ApiError,
        backoff::Backoff,
        metrics::word,
        slices::{Me, Policy, SliceFacts, Slices, View},
        watch::Watch,
    },
    GET_SERVICES, LIST_SLICES, Meaning, Room, SILENCE, WATCH_SLICES,
};
use lameduck_lifecycle::{Endpoints, Peers, Phase, Unobservable};

/// Number of slices per page; about two megabytes, at a hundred endpoints each.
const PAGE: u32 = 50;
/// Maximum number of pages to read, enough for a namespace of a million endpoints.
const PAGES: usize = 200;
/// Minimum time between two lists, in case endpoints keep moving between slices.
const LIST_AGAIN: Duration = Duration::from_secs(1);
/// How long to wait for the own Pod if its uid is not known: without it, endpoints can't be matched.
const KNOW_MYSELF: Duration = Duration::from_secs(2);
/// How long to wait if the uid is known. Addresses, node and owner matter too, but less than time does: without them
/// an endpoint that references no Pod is not matched, and `auto` may hold readiness for a peer that never comes.
const KNOW_MORE: Duration = Duration::from_millis(500);
/// A watch that has lasted this long counts as working.
const PROVEN: Duration = Duration::from_secs(1);

/// Reports who routes here and who else could, until the lame-duck phase is over.
pub(super) async fn follow(room: &Arc<Room>) {
    // Without a listener there is no lame-duck phase, and nothing to wait for.
    tokio::select! {
        () = left_lame_duck(room) => {}
        () = observe(room) => {}
    }
}

async fn left_lame_duck(room: &Room) {
    let mut phases = room.drain.phase_changes();
    let over = phases.wait_for(|phases| {
        let now = phases.last().map(|(phase, _)| *phase);
        now > Some(Phase::LameDuck)
    });
    // Fails only if the drain itself has been dropped.
    let _ = over.await;
}

async fn observe(room: &Arc<Room>) {
    let mut phases = room.drain.phase_changes();
    let _ = phases
        .wait_for(|p| p.last().is_some_and(|(p, _)| *p >= Phase::LameDuck))
        .await;
    let me = know_myself(room).await;
    let (news, inbox) = mpsc::channel(64);
    let mut observer = Observer {
        room: room.clone(),
        slices: Slices::new(me),
        watching: BTreeSet::new(),
        lost: BTreeSet::new(),
        denied: false,
        gone: false,
        news,
        inbox,
        tasks: JoinSet::new(),
        asked: BTreeSet::new(),
        not_older: None,
        lists: Lists::new(),
        removed: BTreeMap::new(),
        said: (Endpoints::Unknown, Peers::Unknown),
    };
    loop {
        observer.step().await;
        if observer.denied {
            // A refusal is a definite answer, however long it took.
            break;
        }
        observer.tell();
    }
    observer.say(Endpoints::Unobservable(Unobservable::NoPermission));
}

/// Returns what was read at start. If that read failed, or T0 came before its answer, waits for the read at T0,
/// which is under way.
async fn know_myself(room: &Room) -> Me {
    let mut known = room.me.subscribe();
    let bound = match room.identity.uid {
        Some(_) => KNOW_MORE,
        None => KNOW_MYSELF,
    };
    let _ = timeout(bound, known.wait_for(|known| known.settled)).await;
    room.me.borrow().me.clone()
}

struct Observer {
    room: Arc<Room>,
    slices: Slices,
    /// Slices that have a watch, which continues after a slice is deleted because the slice may come back.
    watching: BTreeSet<String>,
    /// The watched slices whose watch has been failing for a while.
    lost: BTreeSet<String>,
    denied: bool,
    /// Whether the own Pod is gone. Then it is in no slice except those still watched, and lists are not answered.
    gone: bool,
    news: mpsc::Sender<News>,
    inbox: mpsc::Receiver<News>,
    /// Tasks that end with the observer.
    tasks: JoinSet<()>,
    /// Services whose traffic policy has been asked for.
    asked: BTreeSet<String>,
    /// The version in which an entry vanished; the next list must not be older.
    not_older: Option<String>,
    lists: Lists,
    /// When each Service was first seen to no longer route here.
    removed: BTreeMap<String, Option<Instant>>,
    said: (Endpoints, Peers),
}

/// The state of the list requests.
struct Lists {
    /// Whether any list has succeeded.
    any: bool,
    /// The earliest time of the next list, if one is wanted.
    next: Instant,
    /// Since when lists have been failing.
    failing: Option<Instant>,
    backoff: Backoff,
}

/// A message from a task to the observer.
enum News {
    Slice(SliceFacts, Option<String>),
    Deleted(String, Option<String>),
    /// The watch of this slice works (`true`), or has been failing for a while (`false`).
    Contact(String, bool),
    Denied,
    Policy(String, Policy),
}

// === impl Observer ===

impl Observer {
    /// Waits for something new.
    async fn step(&mut self) {
        let wanted = !self.gone && (!self.lists.any || self.slices.view().vanished);
        let gone = self.room.gone.clone();
        tokio::select! {
            // Process everything already known before deciding to list once more.
            biased;
            Some(news) = self.inbox.recv() => self.learn(news),
            () = gone.cancelled(), if !self.gone => self.gone = true,
            () = sleep_until(self.lists.next), if wanted => self.list().await,
        }
        if self.gone {
            // A vanished entry can't have moved to another slice, because its Pod no longer exists.
            self.slices.pod_is_gone();
        }
    }

    fn learn(&mut self, news: News) {
        match news {
            News::Slice(slice, version) => {
                self.not_older = version;
                self.slices.applied(slice);
            }
            News::Deleted(name, version) => {
                self.not_older = version;
                self.slices.deleted(&name);
            }
            News::Contact(name, true) => drop(self.lost.remove(&name)),
            News::Contact(name, false) => drop(self.lost.insert(name)),
            News::Denied => self.denied = true,
            News::Policy(service, policy) => self.slices.policy(&service, policy),
        }
    }

    /// Lists once, then watches the slices that hold this pod. A failed list is repeated later; meanwhile watches are
    /// read, because they may answer the question that the list was wanted for.
    async fn list(&mut self) {
        let begin = Instant::now();
        match list(&self.room, self.slices.me(), self.not_older.as_deref()).await {
            Ok((all, version)) => {
                self.not_older = None;
                self.lists.succeeded();
                self.slices.listed(all);
                self.watch_own(&version);
            }
            Err(error) => match self.room.understand(LIST_SLICES, &error).await {
                Meaning::PodGone => self.gone = true,
                meaning => {
                    self.denied = meaning == Meaning::Denied;
                    self.lists.failed(begin, &error);
                }
            },
        }
    }

    fn watch_own(&mut self, version: &str) {
        let new: Vec<String> = self
            .slices
            .names()
            .filter(|name| !self.watching.contains(*name))
            .map(str::to_owned)
            .collect();
        for name in new {
            self.watching.insert(name.clone());
            let task = SliceWatch {
                room: self.room.clone(),
                me: self.slices.me().clone(),
                name,
                version: version.to_owned(),
                news: self.news.clone(),
                failing: None,
                backoff: Backoff::new(),
            };
            self.tasks.spawn(task.run());
        }
    }

    /// Reports what is known now, if it has changed.
    fn tell(&mut self) {
        let unavailable = Endpoints::Unobservable(Unobservable::Unavailable);
        let pod_gone = Endpoints::Unobservable(Unobservable::PodGone);
        if !self.lists.any {
            if self.gone {
                self.say(pod_gone);
            } else if self.lists.silent() {
                self.say(unavailable);
            }
            return;
        }
        let view = self.slices.view();
        self.measure(&view);
        self.ask(&view);
        let unclear = !self.lost.is_empty() || (view.vanished && self.lists.silent());
        let endpoints = match view.endpoints {
            // The last observation may be out of date.
            Endpoints::Routed if unclear && self.gone => pod_gone,
            Endpoints::Routed if unclear => unavailable,
            endpoints => endpoints,
        };
        // Report peers before endpoints, because readiness is decided as soon as the endpoints are gone.
        if view.peers != Peers::Unknown && view.peers != self.said.1 {
            self.said.1 = view.peers;
            self.room.drain.observe_peers(view.peers);
        }
        self.say(endpoints);
    }

    fn say(&mut self, endpoints: Endpoints) {
        if endpoints != self.said.0 {
            self.said.0 = endpoints;
            tracing::info!(endpoints = word(endpoints), peers = ?self.said.1, "who routes here");
            self.room.metrics.endpoints(endpoints);
            self.room.drain.observe_endpoints(endpoints);
        }
    }

    /// Measures how long each Service took to stop routing here.
    fn measure(&mut self, view: &View) {
        let Some(plan) = self.room.drain.plan() else {
            return;
        };
        for (service, routed) in &view.services {
            let known = self.removed.get(service).copied();
            let at = match routed {
                true => None,
                false => known.flatten().or_else(|| Some(Instant::now())),
            };
            if known != Some(at) {
                self.removed.insert(service.clone(), at);
                let lag = at.map(|at| at - plan.t0);
                self.room.metrics.removal(service, lag);
                if let Some(lag) = lag {
                    tracing::info!(
                        service,
                        seconds = lag.as_secs_f64(),
                        "no longer routes here"
                    );
                }
            }
        }
    }

    /// Requests the traffic policy of each Service once.
    fn ask(&mut self, view: &View) {
        for service in &view.ask {
            if self.asked.insert(service.clone()) {
                let (room, news) = (self.room.clone(), self.news.clone());
                self.tasks.spawn(ask_policy(room, service.clone(), news));
            }
        }
    }
}

// === impl Lists ===

impl Lists {
    fn new() -> Self {
        Self {
            any: false,
            next: Instant::now(),
            failing: None,
            backoff: Backoff::new(),
        }
    }

    fn succeeded(&mut self) {
        self.any = true;
        self.next = Instant::now() + LIST_AGAIN;
        self.failing = None;
        self.backoff.reset();
    }

    fn failed(&mut self, begin: Instant, error: &ApiError) {
        self.failing.get_or_insert(begin);
        self.next = Instant::now() + self.backoff.after(error);
    }

    /// Returns whether lists have been failing for a while.
    fn silent(&self) -> bool {
        self.failing.is_some_and(|since| since.elapsed() >= SILENCE)
    }
}

async fn ask_policy(room: Arc<Room>, service: String, news: mpsc::Sender<News>) {
    let policy = match room.api.get::<Service>(&service).await {
        Ok(answer) => Policy::read(&answer.object),
        Err(error) => {
            room.understand(GET_SERVICES, &error).await;
            Policy::default()
        }
    };
    let _ = news.send(News::Policy(service, policy)).await;
}

/// Lists all slices of the namespace page by page and reduces each to its facts at once. Without `not_older`
/// this is a quorum read: a cache might not yet know of a pod that has just become ready.
async fn list(
    room: &Room,
    me: &Me,
    not_older: Option<&str>,
) -> Result<(Vec<SliceFacts>, String), ApiError> {
    let first = ListParams::default().limit(PAGE);
    let mut params = match not_older {
        Some(version) => first.at(version).matching(VersionMatch::NotOlderThan),
        None => first,
    };
    let mut all = Vec::new();
    let mut listed_at = None;
    for _ in 0..PAGES {
        let page: ObjectList<EndpointSlice> = room.api.list(&params).await?;
        all.extend(page.items.iter().map(|slice| SliceFacts::read(slice, me)));
        let version = page.metadata.resource_version.unwrap_or_default();
        let version = listed_at.get_or_insert(version);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = ListParams::default().limit(PAGE).continue_token(&token),
            None => return Ok((all, std::mem::take(version))),
        }
    }
    Err(ApiError::Invalid(format!("more than {PAGES} pages")))
}

/// The watch of one slice, for as long as the observer lives.
struct SliceWatch {
    room: Arc<Room>,
    me: Me,
    name: String,
    version: String,
    news: mpsc::Sender<News>,
    /// Since when the watch has been failing, and whether that was reported.
    failing: Option<(Instant, bool)>,
    backoff: Backoff,
}

// === impl SliceWatch ===

impl SliceWatch {
    async fn run(mut self) {
        loop {
            let opened = self
                .room
                .api
                .watch::<EndpointSlice>(&self.name, &self.version);
            let ended = match opened.await {
                Ok(watch) => self.read(watch).await,
                Err(error) => Err(error),
            };
            let Err(error) = ended else {
                continue;
            };
            match self.room.understand(WATCH_SLICES, &error).await {
                Meaning::Denied => return self.send(News::Denied).await,
                Meaning::PodGone => {
                    return self.send(News::Contact(self.name.clone(), false)).await;
                }
                Meaning::Passing => {}
            }
            self.failed().await;
            // If a version is too old, a watch ends at once, or a proxy blocks watches, the slice can still be
            // read by a list. Wait afterwards whether or not that succeeds, so that this loop does not spin.
            if !self.read_again().await {
                self.failed().await;
            }
            sleep(self.backoff.after(&error)).await;
        }
    }

    /// Reads a watch to its end.
    async fn read(&mut self, mut watch: Watch<EndpointSlice>) -> Result<(), ApiError> {
        loop {
            let event = match timeout(PROVEN, watch.next()).await {
                Ok(Some(event)) => event?,
                // Even a watch that brought an event: a server that ends each one at once must not make us spin.
                Ok(None) if watch.age() < PROVEN => return Err(ApiError::closed_at_once()),
                Ok(None) => return Ok(()),
                Err(_) => {
                    self.backoff.reset();
                    self.works().await;
                    continue;
                }
            };
            self.works().await;
            self.take(event).await;
        }
    }

    async fn take(&mut self, event: WatchEvent<EndpointSlice>) {
        let version = match &event {
            WatchEvent::Added(slice) | WatchEvent::Modified(slice) | WatchEvent::Deleted(slice) => {
                slice.metadata.resource_version.clone()
            }
            WatchEvent::Bookmark(bookmark) => Some(bookmark.metadata.resource_version.clone()),
            WatchEvent::Error(_) => None,
        };
        if let Some(version) = &version {
            self.version.clone_from(version);
        }
        match event {
            WatchEvent::Added(slice) | WatchEvent::Modified(slice) => {
                let facts = SliceFacts::read(&slice, &self.me);
                self.send(News::Slice(facts, version)).await;
            }
            WatchEvent::Deleted(_) => {
                self.send(News::Deleted(self.name.clone(), version)).await;
            }
            WatchEvent::Bookmark(_) | WatchEvent::Error(_) => {}
        }
    }

    /// Lists this one slice to catch up on changes; returns whether there was an answer.
    async fn read_again(&mut self) -> bool {
        let this = ListParams::default().fields(&format!("metadata.name={}", self.name));
        match self.room.api.list::<EndpointSlice>(&this).await {
            Ok(list) => {
                // Repeated reads are as good as a watch: the knowledge is only as old as the wait between two of them.
                self.works().await;
                let version = list.metadata.resource_version;
                self.version = version.clone().unwrap_or_default();
                let news = match list.items.first() {
                    Some(slice) => News::Slice(SliceFacts::read(slice, &self.me), version),
                    None => News::Deleted(self.name.clone(), version),
                };
                self.send(news).await;
                true
            }
            Err(error) => {
                self.room.understand(LIST_SLICES, &error).await;
                false
            }
        }
    }

    async fn works(&mut self) {
        if let Some((_, true)) = self.failing.take() {
            self.send(News::Contact(self.name.clone(), true)).await;
        }
    }

    async fn failed(&mut self) {
        let (since, said) = *self.failing.get_or_insert((Instant::now(), false));
        if !said && since.elapsed() >= SILENCE {
            self.failing = Some((since, true));
            self.send(News::Contact(self.name.clone(), false)).await;
        }
    }

    async fn send(&self, news: News) {
        // Fails only if nobody listens any more, and then this task ends as well.
        let _ = self.news.send(news).await;
    }
}
