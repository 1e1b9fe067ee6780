//! Tokens, and whose credentials buy them.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn anonymous_token_makes_a_public_repository_everybodys() {
    let realm = Arc::new(Mutex::new(String::new()));
    let known = Arc::clone(&realm);
    let stage = Stage::new(move |request| {
        if request.starts_with("get /token?") {
            assert!(!request.contains("authorization:"), "{request}");
            return answer(200, &[], b"{\"token\":\"t0ken\",\"expires_in\":300}");
        }
        if request.contains("authorization: bearer t0ken\r\n") {
            return repository(request);
        }
        let challenge =
            format!("Bearer realm=\"{}\",service=\"r\",scope=\"repository:team/app:pull\"", known.lock().unwrap());
        answer(401, &[("www-authenticate", &challenge)], b"")
    })
    .await;
    *realm.lock().unwrap() = stage.registry.url("/token");
    let target = format!("/v2/team/app/blobs/{}?ns=r.io", sha256(&[5; 100_000]));
    assert_eq!(stage.get(&target, &[]).await.status, 200);
    assert_eq!(stage.get(&target, &[("authorization", "Bearer other")]).await.status, 401, "passed through as asked");
    let requests = stage.requests();
    let tokens: Vec<_> = requests.iter().filter(|request| request.starts_with("get /token?")).collect();
    assert_eq!(tokens.len(), 1, "{requests:?}");
    assert!(tokens[0].starts_with("get /token?service=r&scope=repository:team/app:pull "), "{}", tokens[0]);
    assert_eq!(stage.gets(), 2, "the swarm was asked for everybody, and the pass through had the client's own name");
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_of_this_host_go_to_the_registrys_own_token_server_and_pull_only() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.json");
    std::fs::write(&file, "{\"auths\":{\"r.io\":{\"username\":\"node\",\"password\":\"s3cret\"}}}").unwrap();
    let elsewhere = Origin::start(|_| answer(200, &[], b"{\"token\":\"t\"}")).await;
    let foreign = format!("http://localhost:{}/token", elsewhere.address.port());
    let realm = Arc::new(Mutex::new(foreign));
    let known = Arc::clone(&realm);
    // base64 of "node:s3cret", as the script sees it: in lower case.
    let secret = "authorization: basic bm9kztpzm2nyzxq=\r\n";
    let stage = Stage::with(
        |config| {
            config.credentials = CredentialsPolicy::Node;
            config.auth_file = Some(file.clone());
        },
        |_| (),
        move |request| {
            if request.starts_with("get /token?") && request.contains(secret) {
                return answer(200, &[], b"{\"access_token\":\"node\"}");
            }
            if request.contains("authorization: bearer node\r\n") {
                return repository(request);
            }
            let challenge = format!("Bearer realm=\"{}\",service=\"r\"", known.lock().unwrap());
            answer(401, &[("www-authenticate", &challenge)], b"")
        },
    )
    .await;
    let target = format!("/v2/team/app/blobs/{}?ns=r.io", sha256(&[5; 100_000]));
    assert_eq!(stage.get(&target, &[]).await.status, 401);
    assert!(elsewhere.requests().iter().all(|request| !request.contains("authorization:")), "another host's server");
    *realm.lock().unwrap() = stage.registry.url("/token");
    assert_eq!(stage.get(&target, &[]).await.status, 200);
    let before = stage.requests().len();
    let pushed = stage.ask("POST", "/v2/team/app/blobs/uploads/?ns=r.io", &[], None).await;
    assert_eq!(pushed.status, 401, "nobody pushes in this host's name");
    assert!(stage.requests()[before..].iter().all(|request| !request.contains("authorization:")));
}

#[tokio::test(flavor = "multi_thread")]
async fn identity_token_is_shown_to_the_registrys_own_token_server_only() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.json");
    let elsewhere = Origin::start(|_| answer(200, &[], b"{\"access_token\":\"t\"}")).await;
    let foreign = format!("http://localhost:{}/token", elsewhere.address.port());
    let form = "grant_type=refresh_token&client_id=hawker&refresh_token=Id3ntity%2B&service=r\
                &scope=repository:team/app:pull";
    // What stands beside the token, whether the server speaks OAuth 2, and what the client hears.
    for (password, has_oauth, status) in [("", true, 200), ("", false, 401), ("node:s3cret", false, 200)] {
        let auth = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, password);
        let entry = format!("{{\"auth\":\"{auth}\",\"identitytoken\":\"Id3ntity+\"}}");
        std::fs::write(&file, format!("{{\"auths\":{{\"r.io\":{entry}}}}}")).unwrap();
        let realm = Arc::new(Mutex::new(foreign.clone()));
        let known = Arc::clone(&realm);
        let stage = Stage::with(
            |config| {
                config.credentials = CredentialsPolicy::Node;
                config.auth_file = Some(file.clone());
            },
            |_| (),
            move |request| {
                if request.starts_with("post /token ") {
                    assert!(request.ends_with(&format!("\r\n\r\n{form}")), "{request}");
                    assert!(!request.contains("authorization:"), "{request}");
                    let token = b"{\"access_token\":\"node\",\"refresh_token\":\"other\",\"expires_in\":300}";
                    return if has_oauth { answer(200, &[], token) } else { answer(404, &[], b"") };
                }
                if request.starts_with("get /token?") {
                    assert!(!request.contains("id3ntity"), "{request}");
                    let is_right = request.contains("authorization: basic bm9kztpzm2nyzxq=\r\n");
                    return if is_right { answer(200, &[], b"{\"token\":\"node\"}") } else { answer(401, &[], b"") };
                }
                if request.contains("authorization: bearer node\r\n") {
                    return repository(request);
                }
                let scope = "repository:team/app:pull";
                let challenge = format!("Bearer realm=\"{}\",service=\"r\",scope=\"{scope}\"", known.lock().unwrap());
                answer(401, &[("www-authenticate", &challenge)], b"")
            },
        )
        .await;
        let target = format!("/v2/team/app/blobs/{}?ns=r.io", sha256(&[5; 100_000]));
        assert_eq!(stage.get(&target, &[]).await.status, 401);
        *realm.lock().unwrap() = stage.registry.url("/token");
        assert_eq!(stage.get(&target, &[]).await.status, status, "{password} {has_oauth}");
        let posts = stage.requests().iter().filter(|request| request.starts_with("post /token ")).count();
        assert!(posts >= 1, "{:?}", stage.requests());
    }
    let told = elsewhere.requests();
    assert!(
        !told.is_empty() && told.iter().all(|request| request.starts_with("get ") && !request.contains("id3ntity"))
    );
}
