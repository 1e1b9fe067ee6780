use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::*;
use crate::arguments::{ContainerdArguments, Mirror, PodmanArguments, Writing};

const MIRROR: &str = "http://127.0.0.1:7311";

/// A host's /etc in a directory of the test.
struct Etc(tempfile::TempDir);

impl Etc {
    fn new(files: &[(&str, &str)]) -> Self {
        let etc = Self(tempfile::tempdir().unwrap());
        for (name, text) in files {
            let path = etc.path(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        etc
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Every file and directory, and what is in it.
    fn all(&self) -> BTreeMap<PathBuf, Option<String>> {
        let mut found = BTreeMap::new();
        let mut left = vec![self.0.path().to_owned()];
        while let Some(directory) = left.pop() {
            for entry in std::fs::read_dir(directory).unwrap().flatten() {
                let path = entry.path();
                let text = path.is_file().then(|| std::fs::read_to_string(&path).unwrap());
                if text.is_none() {
                    left.push(path.clone());
                }
                found.insert(path, text);
            }
        }
        found
    }

    /// The file without the line that says who wrote it.
    fn body(&self, name: &str) -> String {
        let text = std::fs::read_to_string(self.path(name)).unwrap();
        let (first, rest) = text.split_once('\n').unwrap();
        assert!(first.starts_with("# Changed by `hawker setup`"), "{first}");
        rest.to_owned()
    }

    /// A containerd of this version; an empty one is no containerd.
    fn containerd(&self, version: &str) -> ContainerdArguments {
        let program = self.0.path().with_extension("containerd");
        if !version.is_empty() {
            use std::io::Write as _;
            use std::os::unix::fs::OpenOptionsExt as _;
            let mut file =
                std::fs::File::options().create(true).write(true).truncate(true).mode(0o755).open(&program).unwrap();
            write!(file, "#!/bin/sh\necho containerd github.com/containerd/containerd {version} abc\n").unwrap();
        }
        ContainerdArguments {
            mirror: Mirror { url: MIRROR.to_owned() },
            writing: Writing { dry_run: false, undo: false },
            config_dir: None,
            config: self.path("containerd/config.toml"),
            registry: Vec::new(),
            edit_config: false,
            containerd: program,
        }
    }

    /// A config.toml that names the directory of registries.
    fn with_config_path(files: &[(&str, &str)]) -> Self {
        let etc = Self::new(files);
        let text = format!(
            "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\n  config_path = \"{}\"\n",
            etc.path("certs.d").display()
        );
        std::fs::create_dir_all(etc.path("containerd")).unwrap();
        std::fs::write(etc.path("containerd/config.toml"), text).unwrap();
        etc
    }

    fn podman(&self, registries: &[&str]) -> PodmanArguments {
        PodmanArguments {
            mirror: Mirror { url: MIRROR.to_owned() },
            writing: Writing { dry_run: false, undo: false },
            config_dir: Some(self.0.path().to_owned()),
            registry: registries.iter().map(|name| (*name).to_owned()).collect(),
        }
    }
}

impl Drop for Etc {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.0.path().with_extension("containerd"));
    }
}

fn is_success(code: ExitCode) -> bool {
    // ExitCode compares by its text only.
    format!("{code:?}") == format!("{:?}", ExitCode::SUCCESS)
}

const PLAIN: &str = "# For every registry: the agent first, then the registry itself.\n\
                     [host.\"http://127.0.0.1:7311\"]\n  capabilities = [\"pull\", \"resolve\"]\n";

#[test]
fn containerd_gets_one_file_for_all_registries_and_undo_leaves_no_trace() {
    let etc = Etc::with_config_path(&[]);
    let before = etc.all();
    let mut arguments = etc.containerd("1.6.20~ds1");
    arguments.writing.dry_run = true;
    assert!(is_success(containerd::run(&arguments).unwrap()));
    assert_eq!(etc.all(), before, "a dry run changes nothing");
    arguments.writing.dry_run = false;
    assert!(is_success(containerd::run(&arguments).unwrap()));
    assert_eq!(etc.body("certs.d/_default/hosts.toml"), PLAIN);
    let once = etc.all();
    assert!(is_success(containerd::run(&arguments).unwrap()));
    assert_eq!(etc.all(), once, "twice is once");
    let state = containerd::look(&arguments).unwrap();
    assert!(state.is_written && state.is_there && !state.advice.iter().any(|advice| advice.is_blocking), "{state:?}");
    arguments.writing = Writing { dry_run: true, undo: true };
    containerd::run(&arguments).unwrap();
    assert_eq!(etc.all(), once, "a dry run undoes nothing");
    arguments.writing.dry_run = false;
    containerd::run(&arguments).unwrap();
    assert_eq!(etc.all(), before);
    assert!(!containerd::look(&arguments).unwrap().is_written);
}

#[test]
fn what_was_in_the_file_stays_behind_the_mirror_and_comes_back() {
    let old =
        "server = \"https://proxy.example\" # ours\n\n[host.\"https://cache.example\"]\n  capabilities = [\"pull\"]";
    let etc = Etc::with_config_path(&[("certs.d/_default/hosts.toml", old)]);
    let before = etc.all();
    let mut arguments = etc.containerd("v2.1.4");
    assert!(is_success(containerd::run(&arguments).unwrap()));
    let body = etc.body("certs.d/_default/hosts.toml");
    assert_eq!(
        body,
        "server = \"https://proxy.example\" # ours\n\n[host.\"http://127.0.0.1:7311\"]\n  capabilities = [\"pull\", \"resolve\"]\n  \
         dial_timeout = \"200ms\"\n\n[host.\"https://cache.example\"]\n  capabilities = [\"pull\"]"
    );
    body.parse::<toml::Table>().unwrap();
    // Another mirror replaces ours, not what was there before.
    arguments.mirror.url = "http://127.0.0.1:9".to_owned();
    containerd::run(&arguments).unwrap();
    assert!(!etc.body("certs.d/_default/hosts.toml").contains("7311"));
    arguments.writing.undo = true;
    containerd::run(&arguments).unwrap();
    assert_eq!(etc.all(), before);
}

#[test]
fn a_mirror_that_somebody_wrote_by_hand_is_left_alone() {
    let hand = "[host.\"http://127.0.0.1:7311\"]\n  capabilities = [\"resolve\", \"pull\"]\n";
    let etc = Etc::with_config_path(&[("certs.d/_default/hosts.toml", hand)]);
    let before = etc.all();
    assert!(is_success(containerd::run(&etc.containerd("1.7.1")).unwrap()));
    assert_eq!(etc.all(), before);
    assert!(containerd::look(&etc.containerd("1.7.1")).unwrap().is_written);
}

#[test]
fn what_somebody_changed_since_is_neither_overwritten_nor_removed() {
    let etc = Etc::with_config_path(&[]);
    let mut arguments = etc.containerd("1.7.1");
    containerd::run(&arguments).unwrap();
    let path = etc.path("certs.d/_default/hosts.toml");
    let edited = std::fs::read_to_string(&path).unwrap() + "# mine\n";
    std::fs::write(&path, &edited).unwrap();
    for undo in [false, true] {
        arguments.writing.undo = undo;
        arguments.mirror.url = "http://127.0.0.1:9".to_owned();
        let failure = containerd::run(&arguments).unwrap_err();
        assert!(failure.message.contains("hosts.toml") && !failure.hint.is_empty(), "{failure:?}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), edited);
    }
}

#[test]
fn a_directory_of_a_registry_shadows_and_can_be_written_into() {
    let etc = Etc::with_config_path(&[
        ("certs.d/quay.io/hosts.toml", "server = \"https://quay.io\"\n"),
        ("certs.d/in.house_5000_/ca.crt", "PEM"),
    ]);
    let before = etc.all();
    let mut arguments = etc.containerd("1.6.20");
    assert!(is_success(containerd::run(&arguments).unwrap()), "the others come through the agent");
    let shadows = |arguments: &ContainerdArguments| {
        let advice = containerd::look(arguments).unwrap().advice;
        advice.iter().filter(|advice| advice.text.contains("shadows")).cloned().collect::<Vec<_>>()
    };
    let found = shadows(&arguments);
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!(found[1].remedy, "hawker setup containerd --registry quay.io");
    arguments.registry = vec!["quay.io".to_owned(), "in.house:5000".to_owned()];
    containerd::run(&arguments).unwrap();
    assert_eq!(shadows(&arguments), []);
    assert!(
        etc.body("certs.d/quay.io/hosts.toml")
            .starts_with("server = \"https://quay.io\"\n[host.\"http://127.0.0.1:7311\"]")
    );
    let own = etc.body("certs.d/in.house_5000_/hosts.toml");
    let table = own.parse::<toml::Table>().unwrap();
    assert_eq!(table["server"].as_str(), Some("https://in.house:5000"));
    assert!(table["ca"][0].as_str().unwrap().ends_with("ca.crt"), "it was trusted before: {own}");
    arguments.writing.undo = true;
    arguments.registry.clear();
    containerd::run(&arguments).unwrap();
    assert_eq!(etc.all(), before);
}

#[test]
fn a_missing_config_path_is_said_and_added_only_when_asked() {
    for (version, text, section) in [
        ("1.6.20", Some("version = 2\n"), "io.containerd.grpc.v1.cri"),
        (
            "2.1.0",
            Some("version = 3\n[plugins.'io.containerd.cri.v1.images'.registry]\nconfig_path = ''\n[x]\n"),
            "io.containerd.cri.v1.images",
        ),
        (
            "1.7.0",
            Some("version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry] # here\n  [x]"),
            "io.containerd.grpc.v1.cri",
        ),
        ("2.0.0", None, "io.containerd.cri.v1.images"),
        ("1.5.0", Some(""), "cri"),
    ] {
        let files: Vec<(&str, &str)> = text.map(|text| ("containerd/config.toml", text)).into_iter().collect();
        let etc = Etc::new(&files);
        let before = etc.all();
        let mut arguments = etc.containerd(version);
        arguments.config_dir = Some(etc.path("certs.d"));
        assert!(!is_success(containerd::run(&arguments).unwrap()), "{version}: it is not in force");
        let advice = containerd::look(&arguments).unwrap().advice;
        assert!(advice[0].is_blocking && advice[0].remedy.contains(section), "{version}: {advice:?}");
        assert_eq!(files::read(&arguments.config).unwrap().as_deref(), text, "{version}: not without being asked");
        arguments.edit_config = true;
        assert!(is_success(containerd::run(&arguments).unwrap()), "{version}");
        let table = etc.body("containerd/config.toml").parse::<toml::Table>().unwrap();
        let path = table["plugins"][section]["registry"]["config_path"].as_str();
        assert_eq!(path, etc.path("certs.d").to_str(), "{version}: {table}");
        assert!(is_success(containerd::run(&arguments).unwrap()), "{version}: twice is once");
        arguments.writing.undo = true;
        containerd::run(&arguments).unwrap();
        assert_eq!(etc.all(), before, "{version}");
    }
}

#[test]
fn legacy_sections_are_named_and_config_path_is_not_added_beside_them() {
    for section in ["mirrors.\"docker.io\"]\nendpoint = []", "configs.\"in.house\".tls]\nca_file = 'x'"] {
        let text = format!("version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry.{section}\n");
        let etc = Etc::new(&[("containerd/config.toml", &text)]);
        let mut arguments = etc.containerd("1.6.20");
        arguments.config_dir = Some(etc.path("certs.d"));
        arguments.edit_config = true;
        assert!(!is_success(containerd::run(&arguments).unwrap()));
        assert_eq!(std::fs::read_to_string(etc.path("containerd/config.toml")).unwrap(), text);
        let advice = containerd::look(&arguments).unwrap().advice;
        assert!(advice[0].text.contains("does not start"), "{advice:?}");
    }
}

#[test]
fn config_path_is_found_in_imported_files() {
    let etc = Etc::new(&[("containerd/config.toml", "version = 2\nimports = ['conf.d/*.toml']\n")]);
    let directory = etc.path("elsewhere");
    let text =
        format!("[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = '{}:/x'\n", directory.display());
    std::fs::create_dir(etc.path("containerd/conf.d")).unwrap();
    std::fs::write(etc.path("containerd/conf.d/1.toml"), text).unwrap();
    assert!(is_success(containerd::run(&etc.containerd("1.7.0")).unwrap()));
    assert_eq!(etc.body("elsewhere/_default/hosts.toml"), PLAIN);
}

#[test]
fn a_containerd_without_directories_of_registries_is_refused() {
    let etc = Etc::with_config_path(&[]);
    let failure = containerd::run(&etc.containerd("1.4.13")).unwrap_err();
    assert!(failure.message.contains("1.4") && failure.hint.contains("1.5"), "{failure:?}");
    assert_eq!(containerd::parse_version("containerd github.com/containerd/containerd/v2 v2.2.0-rc.1 x"), Some((2, 2)));
    assert_eq!(containerd::parse_version("sh: not found"), None);
}

#[test]
fn nonsense_is_usage() {
    let etc = Etc::with_config_path(&[]);
    for url in ["127.0.0.1:7311", "http://", "http://a/b", "http://a\"]\n", "ftp://a"] {
        let mut arguments = etc.containerd("1.7.0");
        arguments.mirror.url = url.to_owned();
        assert!(containerd::run(&arguments).unwrap_err().message.contains("--mirror"), "{url}");
    }
    for name in ["", "../x", "/etc", "a b", "a\"b"] {
        let mut arguments = etc.containerd("1.7.0");
        arguments.registry = vec![name.to_owned()];
        assert!(containerd::run(&arguments).unwrap_err().message.contains("--registry"), "{name}");
        assert!(registries::run(&etc.podman(&[name])).unwrap_err().message.contains("--registry"), "{name}");
    }
    let broken = Etc::with_config_path(&[("certs.d/_default/hosts.toml", "server = ")]);
    assert!(containerd::run(&broken.containerd("1.7.0")).unwrap_err().message.contains("not TOML"));
}

#[test]
fn podman_gets_a_drop_in_and_undo_leaves_no_trace() {
    let etc = Etc::new(&[("registries.conf", "unqualified-search-registries = ['docker.io']\n")]);
    let before = etc.all();
    let mut arguments = etc.podman(&["docker.io", "quay.io/team", "in.house:5000/a"]);
    assert!(is_success(registries::run(&arguments).unwrap()));
    let table = etc.body("registries.conf.d/90-hawker.conf").parse::<toml::Table>().unwrap();
    let registries = table["registry"].as_array().unwrap();
    assert_eq!(registries.len(), 3);
    assert_eq!(registries[2]["mirror"][0]["location"].as_str(), Some("127.0.0.1:7311/in.house__5000/a"));
    assert_eq!(registries[1]["prefix"].as_str(), Some("quay.io/team"));
    assert_eq!(registries[1]["location"].as_str(), Some("quay.io/team"));
    assert_eq!(registries[1]["mirror"][0]["location"].as_str(), Some("127.0.0.1:7311/quay.io/team"));
    assert_eq!(registries[1]["mirror"][0]["insecure"].as_bool(), Some(true));
    let (_, found) = look_at_registries(etc.0.path(), MIRROR).unwrap();
    assert_eq!(found, ["docker.io", "quay.io/team", "in.house:5000/a"]);
    let once = etc.all();
    registries::run(&arguments).unwrap();
    assert_eq!(etc.all(), once, "twice is once");
    arguments.writing.undo = true;
    registries::run(&arguments).unwrap();
    assert_eq!(etc.all(), before);
}

#[test]
fn what_other_files_say_of_a_registry_is_kept_behind_the_mirror() {
    let early = "[[registry]]\nlocation = 'in.house'\ninsecure = true\n[[registry.mirror]]\nlocation = 'cache.house'\n";
    let etc = Etc::new(&[("registries.conf.d/10-house.conf", early)]);
    assert!(is_success(registries::run(&etc.podman(&["in.house"])).unwrap()));
    let table = etc.body("registries.conf.d/90-hawker.conf").parse::<toml::Table>().unwrap();
    let registry = &table["registry"][0];
    assert_eq!(registry["insecure"].as_bool(), Some(true));
    assert_eq!(registry["mirror"][0]["location"].as_str(), Some("127.0.0.1:7311/in.house"));
    assert_eq!(registry["mirror"][1]["location"].as_str(), Some("cache.house"));
    // The last file that names a registry wins.
    let late = Etc::new(&[("registries.conf.d/95-house.conf", early)]);
    assert!(!is_success(registries::run(&late.podman(&["in.house"])).unwrap()));
}

#[test]
fn files_keep_their_mode_and_fresh_ones_are_readable_by_all() {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let etc = Etc::with_config_path(&[("certs.d/_default/hosts.toml", "")]);
    let path = etc.path("certs.d/_default/hosts.toml");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    containerd::run(&etc.containerd("1.7.0")).unwrap();
    assert_eq!((mode(&path), mode(&path.with_extension("toml.before-hawker"))), (0o640, 0o640));
    registries::run(&etc.podman(&["docker.io"])).unwrap();
    assert_eq!(mode(&etc.path("registries.conf.d/90-hawker.conf")), 0o644);
}
