//! The Kubernetes room against an API server that can be made to misbehave, over real HTTP.
//!
//! | file | promises |
//! | --- | --- |
//! | `removal` | nothing leaves before the endpoints are gone, and the drain ends soon after |
//! | `cause` | why, and until when: deletion, disruption, restart, preStop hook, a second delete |
//! | `forced` | a Pod that is deleted by force is known by its refused token, and by nothing that only looks like it |
//! | `slices` | several Services, slices that move, vanish and come back |
//! | `readiness` | when `/readyz` fails, by policy and peers |
//! | `permission` | a missing rule is named once, and costs nothing but the wait by the clock |
//! | `trouble` | an API server that fails in every way holds nobody up and is not hammered |
//! | `cost` | what a drain costs does not grow with the Service |
//! | `events` | the drain on the Pod, for `kubectl describe`; missing rules in one line |
//! | `double` | kube's own `watcher` is content with the double |
//! | `grid` | every cause under every policy with every trouble, a row each |
//! | `process` | all of it through real processes: environment, token, termination message |
//!
//! Sockets are real, and so is time: settings are short, and tests wait on what the API server was asked.

mod cause;
mod cost;
mod double;
mod events;
mod forced;
mod grid;
mod permission;
mod process;
mod readiness;
mod removal;
mod slices;
pub mod stage;
mod trouble;
