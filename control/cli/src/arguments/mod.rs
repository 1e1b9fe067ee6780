//! What can be typed: commands, flags and their help. Nothing here decides what a flag means for the program;
//! `settings` and the commands resolve these raw arguments first.

mod bench;
mod demo;
mod doctor;
mod get;
mod inspect;
mod mirror;
mod node;
mod setup;
mod sim;

use clap::{Parser, Subcommand};

pub(crate) use bench::{BenchArguments, BenchScenario, BenchWorkerArguments};
pub(crate) use demo::DemoArguments;
pub(crate) use doctor::DoctorArguments;
pub(crate) use get::GetArguments;
pub(crate) use inspect::{ListArguments, RemoveArguments, StatArguments, StatusArguments};
pub(crate) use mirror::{MirrorArguments, MirrorCommand, MirrorInvalidateArguments, MirrorListArguments};
pub(crate) use node::{AgentArguments, SchedulerArguments, UpArguments};
pub(crate) use setup::{
    ContainerdArguments, CrioArguments, DockerArguments, Mirror, PodmanArguments, SetupArguments, SetupClient, Writing,
};
pub(crate) use sim::{RolloutArguments, SimArguments};

const ABOUT: &str = "\
Hawker moves files, container images and model weights to many Linux hosts at once. An agent on every host pulls pieces \
from the other agents, so that the origin sends each byte about once, however many hosts ask. Every piece is verified \
before it is kept or passed on.";

const EXAMPLES: &str = "\
See it work: a scheduler, agents and an origin on this machine
  hawker demo

Download alone: parallel ranges, verified, resumable, no agent needed
  hawker get https://example.org/big.iso -o big.iso

Many hosts: one scheduler, an agent on each host, then `get` on all of them at once
  hawker scheduler --listen 10.0.0.1:7300 --cluster-key cluster.key
  hawker agent --scheduler http://10.0.0.1:7300 --advertise 10.0.0.2 --cluster-key cluster.key
  hawker get http://origin/model.bin -o model.bin

Units
  sizes      1048576, 64kB, 256MiB, 2GB
  rates      25000000 (bytes/s), 25MB/s, 200Mbit/s
  durations  30 (seconds), 500ms, 30s, 1h30m

Exit codes
  0 done                  3 origin refused     6 timeout
  1 other                 4 digest mismatch    7 agent unreachable
  2 usage, FILE exists    5 disk full          130 after Ctrl-C";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(name = "hawker", version, about = "Moves files to many hosts at once", long_about = ABOUT)]
#[command(after_long_help = EXAMPLES, max_term_width = 110)]
#[command(after_help = "`hawker --help` shows examples; `hawker COMMAND --help` explains one.")]
pub(crate) struct Arguments {
    /// What is logged to standard error, such as `info` or `hawker_agent=debug` (default: info for servers, else warn)
    #[arg(long, global = true, env = "HAWKER_LOG", value_name = "FILTER", hide_env_values = true)]
    pub(crate) log: Option<String>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Up(UpArguments),
    Scheduler(SchedulerArguments),
    Agent(Box<AgentArguments>),
    Get(GetArguments),
    Status(StatusArguments),
    Ls(ListArguments),
    Stat(StatArguments),
    Rm(RemoveArguments),
    Setup(SetupArguments),
    Doctor(DoctorArguments),
    Mirror(MirrorArguments),
    Demo(DemoArguments),
    Bench(BenchArguments),
    Sim(SimArguments),
    #[command(name = hawker_bench::WORKER_COMMAND, hide = true)]
    BenchWorker(BenchWorkerArguments),
}

impl Command {
    /// What is logged when nobody says: a server tells what it does, a command only what goes wrong.
    pub(crate) fn default_log(&self) -> &'static str {
        match self {
            Self::Up(_) | Self::Scheduler(_) | Self::Agent(_) => "info",
            // Its agents lose their scheduler at the end of every run.
            Self::BenchWorker(_) => "error",
            _ => "warn",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_definitions_hold_together() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_command_and_every_flag_explains_itself() {
        for command in Arguments::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
                assert!(argument.get_help().is_some(), "{} {}", command.get_name(), argument.get_id());
            }
        }
    }

    #[test]
    fn every_flag_of_the_agent_has_a_variable() {
        use clap::Args as _;
        let agent = AgentArguments::augment_args(clap::Command::new("agent"));
        for argument in agent.get_arguments().filter(|argument| !argument.is_hide_set()) {
            let name = argument.get_long().expect("agents take flags only");
            let variable = format!("HAWKER_{}", name.to_uppercase().replace('-', "_"));
            assert_eq!(argument.get_env().and_then(|env| env.to_str()), Some(variable.as_str()));
        }
    }
}
