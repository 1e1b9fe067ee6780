//! A containerd of a test's own, and the CRI client of a kubelet: the messages that pulling takes, by hand.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

use crate::images::Image;
use crate::lab::Lab;
use crate::process::{Process, Scratch};
use crate::workspace;

const READY_WITHIN: Duration = Duration::from_mins(1);
/// What CRI keeps its images under.
const NAMESPACE: &str = "k8s.io";

/// `runtime.v1.ImageSpec`.
#[derive(Clone, PartialEq, prost::Message)]
struct ImageSpec {
    #[prost(string, tag = "1")]
    image: String,
}

/// `runtime.v1.AuthConfig`: what a kubelet found in pull secrets.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Credentials {
    #[prost(string, tag = "1")]
    pub username: String,
    #[prost(string, tag = "2")]
    pub password: String,
    /// The registry that they are for. Kubelets leave it empty; with it, containerd shows them to nobody else.
    #[prost(string, tag = "4")]
    pub server_address: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PullImageRequest {
    #[prost(message, optional, tag = "1")]
    image: Option<ImageSpec>,
    #[prost(message, optional, tag = "2")]
    auth: Option<Credentials>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PullImageResponse {
    #[prost(string, tag = "1")]
    image_ref: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ImageRequest {
    #[prost(message, optional, tag = "1")]
    image: Option<ImageSpec>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ImageStatusResponse {
    #[prost(message, optional, tag = "1")]
    image: Option<StoredImage>,
}

/// `runtime.v1.Image`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StoredImage {
    /// Digest of its config.
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(string, repeated, tag = "2")]
    pub repo_tags: Vec<String>,
    #[prost(string, repeated, tag = "3")]
    pub repo_digests: Vec<String>,
    #[prost(uint64, tag = "4")]
    pub size: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
struct Nothing {}

/// A running containerd. Ends with this value.
#[derive(Debug)]
pub struct Containerd {
    process: Process,
    root: PathBuf,
}

impl Containerd {
    /// Why this machine can have none, `None` when it can.
    #[must_use]
    pub fn obstacle() -> Option<String> {
        if !rustix::process::geteuid().is_root() {
            return Some("containerd needs root".to_owned());
        }
        let missing =
            ["containerd", "ctr", "runc", "nsenter"].into_iter().find(|name| workspace::find_program(name).is_none());
        missing.map(|name| format!("{name} is not installed"))
    }

    /// Where a containerd of this name reads how to reach registries; `hawker setup` may be told to write there.
    #[must_use]
    pub fn registries(scratch: &Scratch, name: &str) -> PathBuf {
        scratch.join(name).join("certs.d")
    }

    /// Starts one with an empty root, on a host of a lab when that is given.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start(scratch: &Scratch, name: &str, lab: Option<(&Lab, &str)>) -> Self {
        let root = scratch.join(name);
        std::fs::create_dir_all(&root).expect("room");
        let configuration = root.join("config.toml");
        std::fs::write(&configuration, configuration_text(&root, &Self::registries(scratch, name))).expect("room");
        let program = workspace::find_program("containerd").expect("callers ask for obstacles");
        let mut command =
            lab.map_or_else(|| Command::new(&program), |(lab, host)| lab.command_beside_cgroups(host, &program));
        command.arg("--config").arg(&configuration).env_remove("HTTP_PROXY").env_remove("HTTPS_PROXY");
        let mut process = Process::start(scratch.path(), &format!("containerd-{name}"), command);
        let socket = root.join("socket");
        process.wait_until(READY_WITHIN, "listening", || {
            ctr(&socket).args(["version"]).output().is_ok_and(|output| output.status.success())
        });
        Self { process, root }
    }

    /// What it logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.stderr()
    }

    /// Pulls an image as a kubelet does; the digest of its config.
    ///
    /// # Errors
    /// What containerd says.
    pub async fn pull(&self, image: &str, credentials: Option<Credentials>) -> Result<String, tonic::Status> {
        let spec = Some(ImageSpec { image: image.to_owned() });
        let request = PullImageRequest { image: spec, auth: credentials };
        let answer: PullImageResponse = self.call("PullImage", request).await?;
        Ok(answer.image_ref)
    }

    /// What is stored under a name.
    ///
    /// # Errors
    /// What containerd says.
    pub async fn status(&self, image: &str) -> Result<Option<StoredImage>, tonic::Status> {
        let request = ImageRequest { image: Some(ImageSpec { image: image.to_owned() }) };
        let answer: ImageStatusResponse = self.call("ImageStatus", request).await?;
        Ok(answer.image)
    }

    /// Removes an image. Its content goes a little later.
    ///
    /// # Errors
    /// What containerd says.
    pub async fn remove(&self, image: &str) -> Result<(), tonic::Status> {
        let request = ImageRequest { image: Some(ImageSpec { image: image.to_owned() }) };
        let _: Nothing = self.call("RemoveImage", request).await?;
        Ok(())
    }

    async fn call<Q, A>(&self, method: &str, request: Q) -> Result<A, tonic::Status>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        let place = format!("unix://{}", self.socket().display());
        let endpoint = Endpoint::from_shared(place).expect("a path");
        let channel: Channel = endpoint.connect().await.expect("containerd listens");
        let mut client = Grpc::new(channel);
        client.ready().await.expect("containerd listens");
        let path = PathAndQuery::try_from(format!("/runtime.v1.ImageService/{method}")).expect("a path");
        let codec: ProstCodec<Q, A> = ProstCodec::default();
        client.unary(tonic::Request::new(request), path, codec).await.map(tonic::Response::into_inner)
    }

    /// Runs the image's check in a container.
    ///
    /// # Panics
    /// When it does not run, or a byte is wrong.
    pub fn assert_runs(&self, reference: &str, image: &Image) {
        let mut command = ctr(&self.socket());
        command.args(["run", "--rm", reference, "check"]).args(image.check_command());
        let Output { status, stdout, stderr } = command.output().expect("ctr runs");
        let stderr = String::from_utf8_lossy(&stderr);
        assert!(status.success(), "{reference} does not run: {stderr}\n{}", self.log());
        assert_eq!(String::from_utf8_lossy(&stdout), image.check_output(), "{reference}: {stderr}");
    }

    fn socket(&self) -> PathBuf {
        self.root.join("socket")
    }
}

fn ctr(socket: &Path) -> Command {
    let mut command = Command::new(workspace::find_program("ctr").expect("callers ask for obstacles"));
    command.arg("-a").arg(socket).args(["-n", NAMESPACE]);
    command
}

/// CRI without pods: no network plugins, and no snapshotters that this machine's file system lacks.
fn configuration_text(root: &Path, registries: &Path) -> String {
    let root = root.display();
    let without = ["internal.v1.opt", "snapshotter.v1.btrfs", "snapshotter.v1.zfs", "snapshotter.v1.devmapper"];
    let without: Vec<String> = without.iter().map(|name| format!("\"io.containerd.{name}\"")).collect();
    format!(
        "version = 2\nroot = \"{root}/root\"\nstate = \"{root}/state\"\ndisabled_plugins = [{}]\n\
         [grpc]\n  address = \"{root}/socket\"\n\
         [plugins.\"io.containerd.grpc.v1.cri\"]\n  disable_tcp_service = true\n\
         [plugins.\"io.containerd.grpc.v1.cri\".registry]\n  config_path = \"{}\"\n",
        without.join(", "),
        registries.display()
    )
}
