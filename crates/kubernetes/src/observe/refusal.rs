//! Finds out why the API server refused a request: a missing rule, an unaccepted token, or a Pod that is gone.
//!
//! The token is bound to the Pod object. Once that has been deleted by force (`kubectl delete --force`, the garbage
//! collection of a node's pods, the taint manager), the API server does not answer 404 for the Pod but **401 to
//! everything**. It gives no reason, so the other causes are ruled out one by one:
//!
//! ```text
//!  401 ─▶ token read anew, asked once more ─▶ 401
//!           │ nothing was ever accepted         ──▶ the token is no good: another cluster's, a wrong audience
//!           │ it is bound to no Pod             ──▶ the same: its ServiceAccount or its Secret is gone
//!           │ it has expired                    ──▶ the kubelet has not replaced it; it may still do so
//!           │ another request is accepted       ──▶ not the token, but this request is refused
//!           ▼
//!         the Pod is gone
//! ```
//!
//! Two cases look the same as a Pod that is gone: a ServiceAccount that is deleted before its pods, as `helm uninstall`
//! does, and an API server key that is replaced without an overlap in which both keys are valid. A drain then gets less
//! time than it could have. The opposite mistake is worse: a forced deletion would lose its report and the held jobs.

use k8s_openapi::api::{core::v1::Pod, discovery::v1::EndpointSlice};
use kube::api::ListParams;
use tokio::time::timeout;

use super::{
    super::{api::ApiError, permissions::Rule},
    Duration, Room,
};

/// How long another request may take to show that the token is accepted. A forced deletion leaves two seconds for
/// everything.
const CONTRADICTION: Duration = Duration::from_millis(500);

/// The meaning of an error for the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Meaning {
    /// The error is temporary; the next attempt may succeed.
    Passing,
    /// The request will be refused for as long as this process lives.
    Denied,
    /// The Pod no longer exists, so no further request makes sense.
    PodGone,
}

/// The state of a token that was refused.
enum Token {
    NeverAccepted,
    BoundToNoPod,
    Expired,
    Accepted,
    OfAGonePod,
}

// === impl Room ===

impl Room {
    /// Finds out what an error means, and logs it once.
    pub(in super::super) async fn understand(&self, rule: Rule, error: &ApiError) -> Meaning {
        if !error.is_unauthenticated() {
            self.complain(rule, error);
            return match error.is_denied() {
                true => Meaning::Denied,
                false => Meaning::Passing,
            };
        }
        match self.examine_token(rule).await {
            Token::OfAGonePod => {
                self.pod_is_gone();
                self.api.revoke();
                Meaning::PodGone
            }
            Token::Expired => {
                self.say_of_the_token(error, "it has expired, and the kubelet has not replaced it");
                Meaning::Passing
            }
            Token::NeverAccepted => {
                self.say_of_the_token(
                    error,
                    "none of its requests was ever accepted (is it a token of this cluster, for this audience?)",
                );
                Meaning::Denied
            }
            Token::BoundToNoPod => {
                self.say_of_the_token(
                    error,
                    "it is bound to no Pod, so its ServiceAccount or its Secret was deleted",
                );
                Meaning::Denied
            }
            Token::Accepted => {
                self.complain(rule, error);
                Meaning::Denied
            }
        }
    }

    async fn examine_token(&self, refused: Rule) -> Token {
        if self.gone.is_cancelled() {
            return Token::OfAGonePod;
        }
        if !self.api.was_accepted() {
            return Token::NeverAccepted;
        }
        if let Some(claims) = self.api.claims() {
            if claims.pod().is_none() {
                return Token::BoundToNoPod;
            }
            if claims
                .expires
                .is_some_and(|end| end <= self.api.server_now())
            {
                return Token::Expired;
            }
        }
        let other = timeout(CONTRADICTION, self.ask_for_something_else(refused)).await;
        match other {
            Ok(Ok(())) => Token::Accepted,
            Ok(Err(error)) if error.is_an_answer_to_somebody_known() => Token::Accepted,
            // Without an answer, nothing contradicts that the Pod is gone.
            _ => Token::OfAGonePod,
        }
    }

    /// Sends a request that needs another rule, so that the two requests have only the token in common.
    async fn ask_for_something_else(&self, refused: Rule) -> Result<(), ApiError> {
        match refused.resource {
            "pods" => {
                let one = ListParams::default().limit(1);
                self.api.list::<EndpointSlice>(&one).await.map(drop)
            }
            _ => self.api.get::<Pod>(&self.identity.name).await.map(drop),
        }
    }

    /// Tells all parts of the observer that the own Pod is gone.
    pub(super) fn pod_is_gone(&self) {
        if !self.gone.is_cancelled() {
            tracing::info!(
                drain_id = self.drain.id(),
                pod = self.identity.name,
                "the Pod object is gone: it was deleted by force, and the kubelet kills its containers in 2 s"
            );
            self.gone.cancel();
        }
    }

    /// Logs once that the token is refused, and the reason as far as it is known.
    pub(super) fn say_of_the_token(&self, error: &ApiError, why: &'static str) {
        if self
            .told_of_token
            .swap(true, std::sync::atomic::Ordering::AcqRel)
        {
            return;
        }
        tracing::warn!(
            %error,
            why,
            namespace = self.api.namespace(),
            "the API server does not accept this pod's token: a drain goes by the clock"
        );
    }
}
