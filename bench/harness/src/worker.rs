//! The bench's own processes: what the hidden command of the binary runs.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

use crate::error::BenchError;
use crate::serve::ServeOrder;
use crate::swarm::AgentOrder;

/// What a worker is told to be: one argument of JSON, since it is never typed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    Serve(ServeOrder),
    Agent(AgentOrder),
}

impl Order {
    /// For messages.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Serve(_) => "server",
            Self::Agent(_) => "agent",
        }
    }
}

/// Does what `hawker bench` told this process, given the arguments behind the hidden command's name; returns when
/// standard input ends, or never.
///
/// # Errors
/// The arguments are not of the same binary's bench, or the host refuses what they ask for.
pub fn worker_main(arguments: &[String]) -> Result<(), BenchError> {
    let [text] = arguments else {
        return Err(BenchError::Usage("bench workers are started by `hawker bench` alone".to_owned()));
    };
    let order: Order = serde_json::from_str(text)
        .map_err(|error| BenchError::Usage(format!("this is no order of this version's bench: {error}")))?;
    match order {
        Order::Serve(order) => crate::serve::serve(&order),
        Order::Agent(order) => crate::swarm::run_agent(&order),
    }
}

/// Tells the bench that this worker is ready, with what it has to know.
pub(crate) fn say_ready(line: &str) -> Result<(), BenchError> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}").and_then(|()| stdout.flush()).map_err(BenchError::io("tell the bench that we are ready"))
}

/// Waits until the bench has gone or wants this worker to go.
pub(crate) fn wait_for_end() {
    // An error of a pipe is as final as its end.
    let _ = io::stdin().lock().read_to_end(&mut Vec::new());
}
