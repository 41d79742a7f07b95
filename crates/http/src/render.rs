//! Gathers what the rooms have registered, and renders it for Prometheus.

use prometheus::{Registry, TextEncoder};

/// The text format, version 0.0.4, of everything in the registry and of the process itself.
///
/// # Errors
/// Where two families of one name contradict each other.
pub fn render(registry: &Registry) -> prometheus::Result<String> {
    TextEncoder::new().encode_to_string(&registry.gather())
}
