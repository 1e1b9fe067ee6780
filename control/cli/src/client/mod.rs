//! The command line's side of the agent's socket: one request, then events, one of which carries the content's
//! descriptor.

mod connection;
mod door;
mod part;
mod ranges;
mod transfer;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::time::Duration;

use hawker_api::local::{Event, Request, event, request};

use connection::Heard;
pub(crate) use door::Door;
pub(crate) use part::{check_target, publish};
pub(crate) use transfer::{Order, Outcome, Placing, Watch, get};

use crate::exit::{Exit, Failure};
use crate::stop::Stop;

/// An agent that says nothing for so long is stuck: `status` and the like are answered from memory.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Where the agent of this host listens when nobody says otherwise.
pub(crate) fn default_socket() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/run/hawker/agent.sock");
    }
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(directory) if !directory.is_empty() => PathBuf::from(directory).join("hawker/agent.sock"),
        // Without a session there is no runtime directory; a directory of the user's own is as private.
        _ => std::env::temp_dir().join(format!("hawker-{}/agent.sock", rustix::process::geteuid().as_raw())),
    }
}

/// Asks once and hands every event of the answer to `take`, which says whether another follows.
pub(crate) fn ask(
    door: &Door<'_>,
    request: request::Request,
    stop: &Stop,
    mut take: impl FnMut(event::Event) -> Result<bool, Failure>,
) -> Result<(), Failure> {
    let mut connection = door.open()?;
    connection.send(&Request { request: Some(request) }).map_err(|error| door.lost(&error.to_string()))?;
    let stop = stop.within(ANSWER_WITHIN);
    loop {
        stop.check()?;
        match connection.hear(Duration::from_millis(100)).map_err(|error| door.lost(&error.to_string()))? {
            Heard::Event(Event { event: Some(event::Event::Error(error)) }, _) => return Err(failure_of(&error)),
            Heard::Event(Event { event: Some(event) }, _) => {
                if !take(event)? {
                    return Ok(());
                }
            }
            // An event of a newer agent.
            Heard::Event(Event { event: None }, _) | Heard::Silence => {}
            Heard::Closed => return Err(door.lost("it closed the connection without an answer")),
        }
    }
}

/// The failure that an agent's error stands for.
pub(crate) fn failure_of(error: &hawker_api::local::Error) -> Failure {
    Failure::new(Exit::from_code(error.code), error.message.clone()).hint(error.hint.clone())
}
