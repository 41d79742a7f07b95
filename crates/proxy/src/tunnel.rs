//! A connection that has changed to another protocol than HTTP, such as a websocket: bytes in both directions.

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;

use crate::gate::Inside;

/// Passes bytes on in both directions, once both sides have changed the protocol, until both have closed or
/// one is gone. It stays inside the gate all that time.
pub(crate) fn open(client: OnUpgrade, program: OnUpgrade, inside: Inside) {
    tokio::spawn(async move {
        let _inside = inside;
        let (client, program) = match tokio::try_join!(client, program) {
            Ok(sides) => sides,
            Err(error) => {
                tracing::debug!(%error, "a change of protocol did not come about");
                return;
            }
        };
        let (mut client, mut program) = (TokioIo::new(client), TokioIo::new(program));
        if let Err(error) = copy_bidirectional(&mut client, &mut program).await {
            tracing::debug!(%error, "a connection of another protocol broke");
        }
    });
}
