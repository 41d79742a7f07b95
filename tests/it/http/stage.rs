//! A server whose drain goes as the story tells it.

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use lameduck::prelude::*;
use lameduck::{
    Drain, DrainReport, Error, Lifecycle, Moment,
    http::{HttpSettings, Listener, Tls},
    lifecycle::{
        Cause, DeadlineSource, DrainSettings, Endpoints, Kill, ReadinessPolicy, Signals, Trigger,
    },
};
use tempfile::TempDir;
use tokio::{task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::wire::Balancer;

use super::{
    BOUND,
    peer::Peer,
    soon,
    tls::{Authority, connect_tls},
    until,
};

/// What lies between a peer and the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Tcp,
    /// TCP, and every byte takes a while.
    Wire,
    Tls,
    Unix,
}

/// How long a byte takes over [`Transport::Wire`], each way.
pub const WIRE: Duration = Duration::from_millis(5);

/// So far away that it does not come.
const FAR: Duration = Duration::from_secs(36_000);

/// The share of the budget after which idle connections are closed: so small that it can be made to be spent
/// at any instant while the deadline stays far away.
const SHARE: f64 = 0.001;

/// Named events between a story and its handlers.
#[derive(Clone, Default)]
pub struct Cues(Arc<Mutex<HashMap<String, CancellationToken>>>);

impl Cues {
    pub fn of(&self, name: &str) -> CancellationToken {
        let mut cues = self.0.lock().unwrap();
        cues.entry(name.to_owned()).or_default().clone()
    }

    /// It happens now.
    pub fn give(&self, name: &str) {
        self.of(name).cancel();
    }

    pub fn given(&self, name: &str) -> bool {
        self.of(name).is_cancelled()
    }

    /// Until it has happened.
    pub async fn wait(&self, name: &str) {
        soon(&format!("cue {name}"), self.of(name).cancelled_owned()).await;
    }
}

/// A running server.
pub struct Stage {
    pub drain: Drain,
    pub cues: Cues,
    pub tcp: Option<SocketAddr>,
    pub files: TempDir,
    transport: Transport,
    authority: Option<Authority>,
    wire: Option<Balancer>,
    trigger: Trigger,
    running: JoinHandle<Result<Arc<DrainReport>, Error>>,
}

/// A request that is not answered until it is told to: keeps the drain from ending.
pub struct Held {
    peer: Peer,
    cues: Cues,
    name: String,
}

// === impl Stage ===

impl Stage {
    pub async fn tcp() -> Self {
        Self::over(Transport::Tcp).await
    }

    pub async fn over(transport: Transport) -> Self {
        Self::with(transport, |_| {}).await
    }

    pub async fn with(transport: Transport, change: impl FnOnce(&mut HttpSettings)) -> Self {
        let cues = Cues::default();
        let router = super::peer::router(cues.clone());
        Self::serving(transport, cues, change, |lifecycle, listener, settings| {
            lifecycle.http_with("stage", listener, router, settings)
        })
        .await
    }

    pub async fn serving(
        transport: Transport,
        cues: Cues,
        change: impl FnOnce(&mut HttpSettings),
        serve: impl FnOnce(Lifecycle, Listener, HttpSettings) -> Lifecycle,
    ) -> Self {
        let files = TempDir::new().unwrap();
        let address = match transport {
            Transport::Unix => format!("unix:{}", files.path().join("socket").display()),
            _ => "127.0.0.1:0".to_owned(),
        };
        let mut listener = Listener::bind(&address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let tcp: Option<SocketAddr> = address.parse().ok();
        let authority = (transport == Transport::Tls).then(|| Authority::new(files.path()));
        if let Some(authority) = &authority {
            listener = listener.tls(Tls::from_pem_files(&authority.cert, &authority.key).unwrap());
        }
        let wire = match (transport, tcp) {
            (Transport::Wire, Some(address)) => {
                let balancer = Balancer::start(WIRE).await;
                balancer.add(address);
                Some(balancer)
            }
            _ => None,
        };
        let mut settings = HttpSettings::default();
        settings.spread = Duration::from_millis(50);
        change(&mut settings);
        let (signals, trigger) = Signals::manual();
        let lifecycle = Lifecycle::builder()
            .signals(signals)
            .settings(drain_settings())
            .is_observed();
        let drain = lifecycle.drain().clone();
        let lifecycle = serve(lifecycle, listener, settings);
        let running = tokio::spawn(lifecycle.run());
        drain.observe_endpoints(Endpoints::Routed);
        Self {
            drain,
            cues,
            tcp,
            files,
            transport,
            authority,
            wire,
            trigger,
            running,
        }
    }

    // --- peers ---

    pub fn socket_path(&self) -> PathBuf {
        self.files.path().join("socket")
    }

    pub fn authority(&self) -> &Authority {
        self.authority.as_ref().expect("a stage over TLS")
    }

    /// Where a TCP peer connects to.
    pub fn address(&self) -> SocketAddr {
        match &self.wire {
            Some(wire) => wire.address(),
            None => self.tcp.expect("a stage over TCP"),
        }
    }

    /// Connects, and waits until the server has taken the connection in.
    pub async fn peer(&self) -> Peer {
        let before = self.connections();
        let peer = self.knock().await;
        until("the connection is accepted", || self.connections() > before).await;
        peer
    }

    /// Connects.
    pub async fn knock(&self) -> Peer {
        match self.transport {
            Transport::Unix => Peer::new(
                tokio::net::UnixStream::connect(self.socket_path())
                    .await
                    .unwrap(),
            ),
            Transport::Tls => {
                let stream = connect_tls(self.address(), self.authority(), &[]).await;
                Peer::new(stream.unwrap())
            }
            _ => Peer::connect(self.address()).await,
        }
    }

    /// A request that keeps the drain from ending before the story does.
    pub async fn hold(&self) -> Held {
        self.hold_by("hold").await
    }

    pub async fn hold_by(&self, name: &str) -> Held {
        let mut peer = self.peer().await;
        peer.send(&format!("GET /held/{name} HTTP/1.1\r\nhost: x\r\n\r\n"))
            .await;
        self.cues.wait(&format!("{name} begun")).await;
        Held {
            peer,
            cues: self.cues.clone(),
            name: name.to_owned(),
        }
    }

    pub fn connections(&self) -> usize {
        self.drain.all_traffic()[0].connections()
    }

    pub fn requests(&self) -> usize {
        self.drain.all_traffic()[0].requests()
    }

    // --- moments ---

    /// T0.
    pub async fn begin(&self) {
        self.trigger.fire();
        self.reached(Moment::Began).await;
        // Nobody is to take this for a container's own end, which waits for no endpoint.
        self.drain.observe_cause(Cause::PodDeleted);
    }

    /// Endpoints gone; with no settle and no quiet time clients are asked to leave at once.
    pub async fn leave(&self) {
        if !self.drain.has(Moment::Began) {
            self.begin().await;
        }
        self.drain.observe_endpoints(Endpoints::Removed);
        self.reached(Moment::Leave).await;
    }

    /// The lame-duck share is spent.
    pub async fn close_idle(&self) {
        self.leave().await;
        let spent = Instant::now() - self.t0() + Duration::from_millis(1);
        self.killed_after(spent.div_f64(SHARE));
        self.reached(Moment::CloseIdle).await;
        self.killed_after(FAR);
    }

    /// The soft deadline.
    ///
    /// Raised by hand, as [`close`](Self::close) is: with a real plan the hard deadline would follow in
    /// fractions of a second, and a machine that stalls as long would cut what the story looks at. That the
    /// plan raises both before it cuts, stories that go on to the [hard deadline](Self::cut) show.
    pub async fn stop(&self) {
        self.close_idle().await;
        self.drain.token(Moment::Stop).cancel();
    }

    /// The listener closes while something is still served.
    pub async fn close(&self) {
        self.stop().await;
        self.drain.token(Moment::Close).cancel();
    }

    /// The hard deadline, a second later; what is cut then has some seconds to be gone.
    pub async fn cut(&self) {
        self.close_idle().await;
        let now = Instant::now() - self.t0();
        self.killed_after(now + Duration::from_millis(1_500));
        for moment in [Moment::Stop, Moment::Close, Moment::Cut] {
            self.reached(moment).await;
        }
        self.killed_after(now + BOUND);
    }

    pub async fn reach(&self, moment: Moment) {
        match moment {
            Moment::Began => self.begin().await,
            Moment::Leave => self.leave().await,
            Moment::CloseIdle => self.close_idle().await,
            Moment::Stop => self.stop().await,
            Moment::Close => self.close().await,
            Moment::Cut => self.cut().await,
            other => panic!("no story stops at {other:?}"),
        }
    }

    async fn reached(&self, moment: Moment) {
        soon(&format!("{moment:?}"), self.drain.reached(moment)).await;
    }

    fn t0(&self) -> Instant {
        self.drain.plan().expect("a drain has begun").t0
    }

    fn killed_after(&self, time: Duration) {
        self.drain.observe_kill(Kill {
            at: self.t0() + time,
            source: DeadlineSource::DeletionGracePeriod,
        });
    }

    // --- the end ---

    /// Nothing was cut, and nothing is left.
    pub async fn ends_clean(self) -> (Arc<DrainReport>, Drain) {
        let (result, drain) = self.ends().await;
        let report = result.expect("a drain that lost nothing");
        assert_eq!(report.connections.cut, 0, "{:?}", report.connections);
        assert_eq!(report.requests.cut, 0);
        (report, drain)
    }

    pub async fn ends(self) -> (Result<Arc<DrainReport>, Error>, Drain) {
        let drain = self.drain.clone();
        let result = self.ends_before_its_deadline().await;
        for family in ["lameduck_connections", "lameduck_requests_in_flight"] {
            until(&format!("{family} is 0 everywhere"), || {
                sum(&drain, family, &[]) == 0.0
            })
            .await;
        }
        (result, drain)
    }

    /// For drains that wait for no connection: whoever is still there may outlive it.
    pub async fn ends_before_its_deadline(self) -> Result<Arc<DrainReport>, Error> {
        if !self.drain.has(Moment::Leave) {
            self.leave().await;
        }
        let result = soon("the drain ends", self.running).await.unwrap();
        let deadline = self.drain.plan().unwrap().deadline;
        assert!(
            Instant::now() < deadline,
            "run() returned after the deadline"
        );
        result
    }
}

impl Held {
    /// Lets it be answered, and reads its answer.
    pub async fn release(mut self) -> super::peer::Answer {
        self.cues.give(&self.name);
        let answer = self.peer.answer().await;
        assert_eq!(answer.body, b"held");
        answer
    }
}

/// What the metrics say: the sum over all series of a family with these labels.
pub fn sum(drain: &Drain, family: &str, labels: &[(&str, &str)]) -> f64 {
    let families = drain.registry().gather();
    let family = families.iter().find(|f| f.name() == family);
    let series = family.into_iter().flat_map(|family| family.get_metric());
    series
        .filter(|metric| {
            labels.iter().all(|(name, value)| {
                metric
                    .get_label()
                    .iter()
                    .any(|label| label.name() == *name && label.value() == *value)
            })
        })
        .map(|metric| metric.get_gauge().get_value() + metric.get_counter().get_value())
        .sum()
}

/// Connections that ended for this reason.
pub fn closed(drain: &Drain, reason: &str) -> f64 {
    sum(
        drain,
        "lameduck_connections_closed_total",
        &[("reason", reason)],
    )
}

fn drain_settings() -> DrainSettings {
    let mut settings = DrainSettings::default();
    settings.grace = FAR;
    settings.margin = Duration::ZERO;
    settings.lame_duck_share = SHARE;
    settings.readiness = ReadinessPolicy::Immediate;
    settings.settle = Duration::ZERO;
    settings.quiet = Duration::ZERO;
    settings.fallback_wait = FAR;
    settings
}
