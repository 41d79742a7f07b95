//! One binary for all integration tests: one link, and helpers that are shared.

mod api;
mod clients;
mod contract;
mod docs;
mod doctor;
mod engine_contract;
mod exec_handler;
mod fake_api;

mod grpc;
mod hooks;
mod http;
mod http_handler;
mod kubernetes;
mod lifecycle;
mod postgres_proxy;
#[allow(dead_code, reason = "benches use the rest of it")]
mod postgres_server;
mod probes;
mod process;
mod rollout;
mod stage;
mod wire;
mod workers;
mod zoo;
