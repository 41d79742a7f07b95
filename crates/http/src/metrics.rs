//! The metrics of the HTTP room. All servers of a program share one set of families.
//!
//! | metric | says |
//! | --- | --- |
//! | `lameduck_connections{server,protocol,state}` | open connections, `active` with a request in flight or after an upgrade, else `idle` |
//! | `lameduck_connections_closed_total{server,protocol,reason}` | how connections ended, see [`Reason`] |
//! | `lameduck_requests_in_flight{server,protocol}` | requests whose answers have not been sent to their last byte |
//! | `lameduck_requests_total{server,protocol}` | requests begun |
//! | `lameduck_late_requests_total{server}` | requests on connections that came after the endpoints were gone |
//! | `lameduck_time_to_empty_seconds{server}` | from T0 until the last connection had ended; 0 until then |

use std::{sync::Arc, time::Duration};

use prometheus::{
    Gauge, GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, core::Collector,
};

use lameduck_lifecycle::Drain;

/// The protocol of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Protocol {
    /// The protocol is not known yet.
    Unknown,
    Http1,
    Http2,
    /// A websocket, CONNECT, or any other protocol that began with a 101.
    Upgraded,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Reason {
    /// The peer closed it.
    Peer,
    /// We closed it after an answer, because one side had said `Connection: close`.
    Answered,
    /// We closed it after an answer during a drain, after we had asked the client to leave.
    Leave,
    /// We had sent GOAWAY, and its last stream has ended.
    GoAway,
    /// We closed it while it was idle.
    Idle,
    /// A request head or a TLS handshake was incomplete for too long.
    HeaderTimeout,
    /// The rest of a request's body did not come during a drain.
    BodyTimeout,
    /// The peer stopped reading.
    WriteTimeout,
    /// It was cut at the hard deadline.
    Cut,
    /// The peer violated the protocol, or the network failed.
    Error,
}

/// The metric families, shared by all servers.
struct Families {
    connections: IntGaugeVec,
    closed: IntCounterVec,
    requests: IntGaugeVec,
    requests_total: IntCounterVec,
    late: IntCounterVec,
    empty: GaugeVec,
}

/// The metrics of one server. Every series is created in advance, so that counting is one atomic addition.
#[derive(Debug)]
pub(super) struct Meter {
    protocols: [PerProtocol; Protocol::ALL.len()],
    pub(super) late: IntCounter,
    empty: Gauge,
}

#[derive(Debug)]
pub(super) struct PerProtocol {
    pub(super) idle: IntGauge,
    pub(super) active: IntGauge,
    pub(super) requests: IntGauge,
    pub(super) requests_total: IntCounter,
    closed: [IntCounter; Reason::ALL.len()],
}

// === impl Protocol ===

impl Protocol {
    const ALL: [Self; 4] = [Self::Unknown, Self::Http1, Self::Http2, Self::Upgraded];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Http1 => "http/1.1",
            Self::Http2 => "http/2",
            Self::Upgraded => "upgraded",
        }
    }

    pub(super) fn from_u8(value: u8) -> Self {
        Self::ALL[usize::from(value)]
    }
}

// === impl Reason ===

impl Reason {
    const ALL: [Self; 10] = [
        Self::Peer,
        Self::Answered,
        Self::Leave,
        Self::GoAway,
        Self::Idle,
        Self::HeaderTimeout,
        Self::BodyTimeout,
        Self::WriteTimeout,
        Self::Cut,
        Self::Error,
    ];

    pub(super) fn from_u8(value: u8) -> Option<Self> {
        Self::ALL.get(usize::from(value)).copied()
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Peer => "peer",
            Self::Answered => "answered",
            Self::Leave => "leave",
            Self::GoAway => "goaway",
            Self::Idle => "idle",
            Self::HeaderTimeout => "header_timeout",
            Self::BodyTimeout => "body_timeout",
            Self::WriteTimeout => "write_timeout",
            Self::Cut => "cut",
            Self::Error => "error",
        }
    }
}

// === impl Families ===

impl Families {
    fn register(registry: &prometheus::Registry) -> prometheus::Result<Self> {
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            IntGaugeVec::new(Opts::new(name, help), labels)
        };
        let counters = |name: &str, help: &str, labels: &[&str]| {
            IntCounterVec::new(Opts::new(name, help), labels)
        };
        let families = Self {
            connections: gauges(
                "lameduck_connections",
                "Open connections; active with a request in flight or after an upgrade, else idle.",
                &["server", "protocol", "state"],
            )?,
            closed: counters(
                "lameduck_connections_closed_total",
                "Connections that have ended, by how.",
                &["server", "protocol", "reason"],
            )?,
            requests: gauges(
                "lameduck_requests_in_flight",
                "Requests whose answers have not been sent to their last byte.",
                &["server", "protocol"],
            )?,
            requests_total: counters(
                "lameduck_requests_total",
                "Requests begun.",
                &["server", "protocol"],
            )?,
            late: counters(
                "lameduck_late_requests_total",
                "Requests on connections that came after the endpoints were gone: somebody still routes here.",
                &["server"],
            )?,
            empty: GaugeVec::new(
                Opts::new(
                    "lameduck_time_to_empty_seconds",
                    "From the start of the drain until the last connection had ended; 0 until then.",
                ),
                &["server"],
            )?,
        };
        let parts: [Box<dyn Collector>; 6] = [
            Box::new(families.connections.clone()),
            Box::new(families.closed.clone()),
            Box::new(families.requests.clone()),
            Box::new(families.requests_total.clone()),
            Box::new(families.late.clone()),
            Box::new(families.empty.clone()),
        ];
        for part in parts {
            registry.register(part)?;
        }
        Ok(families)
    }
}

// === impl Meter ===

impl Meter {
    /// Returns the meter of the server with this name.
    pub(super) fn new(drain: &Drain, server: &str) -> Arc<Self> {
        let families = drain.kept(|| {
            Families::register(drain.registry())
                .expect("the names and labels are valid, and registered once")
        });
        let protocols = Protocol::ALL.map(|protocol| {
            let labels = &[server, protocol.as_str()];
            let state = |state| {
                let labels = &[server, protocol.as_str(), state];
                families.connections.with_label_values(labels)
            };
            PerProtocol {
                idle: state("idle"),
                active: state("active"),
                requests: families.requests.with_label_values(labels),
                requests_total: families.requests_total.with_label_values(labels),
                closed: Reason::ALL.map(|reason| {
                    let labels = &[server, protocol.as_str(), reason.as_str()];
                    families.closed.with_label_values(labels)
                }),
            }
        });
        Arc::new(Self {
            protocols,
            late: families.late.with_label_values(&[server]),
            empty: families.empty.with_label_values(&[server]),
        })
    }

    pub(super) fn of(&self, protocol: Protocol) -> &PerProtocol {
        &self.protocols[protocol as usize]
    }

    /// Sets the time from T0 until the last connection ended.
    pub(super) fn empty_after(&self, time: Duration) {
        self.empty.set(time.as_secs_f64());
    }
}

// === impl PerProtocol ===

impl PerProtocol {
    pub(super) fn closed(&self, reason: Reason) {
        self.closed[reason as usize].inc();
    }
}
