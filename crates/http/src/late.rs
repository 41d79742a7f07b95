//! Late requests, which come although nobody should route here, and probes, which are not traffic.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use http::{HeaderMap, HeaderName, header};

use super::listener::Peer;

/// Maximum number of senders that the warning tells apart.
const SENDERS: usize = 8;

/// Maximum length of a user agent that is kept, in characters.
const AGENT: usize = 80;

/// The header that Prometheus sends with each scrape.
pub(super) const SCRAPE: HeaderName =
    HeaderName::from_static("x-prometheus-scrape-timeout-seconds");

/// Prefixes of the user agents of health checks, each of which comes on a new connection every few seconds: the
/// kubelet, and the health checks of load balancers, as their documentation names them. Their requests do not
/// show that anybody's traffic is routed here.
const CHECKERS: [&str; 6] = [
    "kube-probe/",
    "GoogleHC/",
    "ELB-HealthChecker/",
    "Envoy/HC",
    "Consul Health Check",
    "Load Balancer Agent",
];

/// The number of late requests by sender.
#[derive(Debug, Default)]
pub(super) struct LateLog(Mutex<BTreeMap<(String, String), u64>>);

/// Whether a request is a probe or a scrape rather than traffic.
pub(super) fn is_probe(headers: &HeaderMap) -> bool {
    let checks = |agent: &str| CHECKERS.iter().any(|checker| agent.starts_with(checker));
    let agent = headers.get(header::USER_AGENT);
    agent
        .and_then(|agent| agent.to_str().ok())
        .is_some_and(checks)
        || headers.contains_key(SCRAPE)
}

// === impl LateLog ===

impl LateLog {
    pub(super) fn note(&self, peer: &Peer, headers: &HeaderMap) {
        let agent = headers.get(header::USER_AGENT);
        let agent = agent.map_or("", |agent| agent.to_str().unwrap_or("?"));
        let agent: String = agent.chars().take(AGENT).collect();
        let mut senders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = (peer.to_string(), agent);
        let room = senders.len() < SENDERS || senders.contains_key(&sender);
        let sender = match room {
            true => sender,
            false => ("others".to_owned(), String::new()),
        };
        *senders.entry(sender).or_default() += 1;
    }

    /// Logs one warning about all of them, when the listener closes.
    pub(super) fn tell(&self, server: &str) {
        let senders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if senders.is_empty() {
            return;
        }
        let count: u64 = senders.values().sum();
        let list: Vec<String> = senders
            .iter()
            .map(|((peer, agent), count)| format!("{count} from {peer} ({agent})"))
            .collect();
        tracing::warn!(
            server,
            count,
            senders = list.join(", "),
            "requests came over new connections after the endpoints were gone: somebody still routes here. \
             They were served; a longer settle time waits for such a load balancer"
        );
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(name: HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn probes_and_scrapes_are_told_from_clients() {
        for agent in ["kube-probe/1.36", "GoogleHC/1.0", "ELB-HealthChecker/2.0"] {
            assert!(is_probe(&headers(header::USER_AGENT, agent)), "{agent}");
        }
        assert!(is_probe(&headers(SCRAPE, "10")));
        for agent in ["curl/8.5.0", "Envoy", "Mozilla/5.0 kube-probe/1.36"] {
            assert!(!is_probe(&headers(header::USER_AGENT, agent)), "{agent}");
        }
        assert!(!is_probe(&HeaderMap::new()));
    }

    #[test]
    fn however_many_come_the_warning_stays_short() {
        let log = LateLog::default();
        for n in 0..100u8 {
            let peer = Peer::Tcp(([10, 0, 0, n], 1).into());
            log.note(&peer, &HeaderMap::new());
            log.note(&peer, &HeaderMap::new());
        }
        let senders = log.0.lock().unwrap();
        assert_eq!(senders.len(), SENDERS + 1);
        assert_eq!(senders.values().sum::<u64>(), 200);
    }
}
