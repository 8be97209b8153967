//! Stored models: the same bits after loading, damage found before use, versions that never change, a pointer that stays.

use std::{
    fs,
    path::{Path, PathBuf},
};

use chrono::{DateTime, Utc};
use tributary::model::{
    Error, Options,
    fit::LINFA_LOGISTIC_VERSION,
    registry::{FORMAT, Listed, MAX_VERSIONS, Registry},
    train,
};

use super::model::{NAMES, synthetic, trained};

const SQL: &str = "0f343b0931126a20f133d67c2b018a3b1d0a1f9b3b1d0a1f9b3b1d0a1f9b3b1d";

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000 + seconds, 0).unwrap()
}

fn file(dir: &Path, version: &str, name: &str) -> PathBuf {
    dir.join("churn").join(version).join(name)
}

#[test]
fn a_stored_model_scores_bit_for_bit_as_the_trained_one() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::new(dir.path().join("models"));
    let (dataset, trained) = trained(-2.5, 300);
    assert!(registry.load_current("churn").unwrap().is_none() && registry.versions("churn").unwrap().is_empty());
    let manifest = registry.save("churn", &trained, at(0), SQL).unwrap();
    assert!(registry.current("churn").unwrap().is_none(), "saving does not publish");
    registry.set_current("churn", &manifest.version).unwrap();

    let stored = registry.load_current("churn").unwrap().unwrap();
    assert_eq!(stored.model, trained.model);
    for example in dataset.examples() {
        let (before, after) =
            (trained.model.score(&example.values).unwrap(), stored.model.score(&example.values).unwrap());
        assert_eq!(before.probability.to_bits(), after.probability.to_bits());
        assert_eq!(before, after);
    }
    assert_eq!((manifest.format, manifest.name.as_str(), manifest.trained_at), (FORMAT, "churn", at(0)));
    assert_eq!(
        (manifest.features.as_slice(), manifest.features_sql_sha256.as_str()),
        (NAMES.map(String::from).as_slice(), SQL)
    );
    let same = registry.save("churn", &trained, at(99), SQL).unwrap();
    assert_eq!(same, stored.manifest, "a version never changes");
}

#[test]
fn a_torn_or_edited_file_is_an_error_and_the_pointer_stays() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::new(dir.path());
    let (_, good) = trained(-2.5, 200);
    let (_, other) = trained(-2.0, 200);
    let kept = registry.save("churn", &good, at(0), SQL).unwrap().version;
    registry.set_current("churn", &kept).unwrap();
    let version = registry.save("churn", &other, at(1), SQL).unwrap().version;
    for name in ["model.json", "manifest.json"] {
        let path = file(dir.path(), &version, name);
        let whole = fs::read(&path).unwrap();
        for length in [0, 1, whole.len() / 2, whole.len() - 1] {
            fs::write(&path, &whole[..length]).unwrap();
            let error = registry.set_current("churn", &version).unwrap_err();
            assert!(matches!(error, Error::Damaged { .. }), "{name} cut to {length}: {error}");
            assert!(error.to_string().contains(name) && error.to_string().contains("train again"), "{error}");
        }
        fs::write(&path, &whole).unwrap();
    }
    let path = file(dir.path(), &version, "model.json");
    let edited = fs::read_to_string(&path).unwrap().replacen("1", "2", 1);
    fs::write(&path, edited).unwrap();
    assert!(registry.load("churn", &version).unwrap_err().to_string().contains("checksum"));
    fs::remove_file(&path).unwrap();
    assert!(matches!(registry.load("churn", &version), Err(Error::Damaged { .. })));
    assert_eq!(registry.current("churn").unwrap(), Some(kept));
}

#[test]
fn another_format_a_missing_version_and_a_path_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::new(dir.path());
    let version = registry.save("churn", &trained(-2.5, 200).1, at(0), SQL).unwrap().version;
    fs::write(file(dir.path(), &version, "manifest.json"), r#"{"format": 2, "anything": true}"#).unwrap();
    assert!(matches!(registry.load("churn", &version), Err(Error::Format { found: 2, supported: FORMAT, .. })));
    assert!(matches!(registry.load("churn", "0123456789ab"), Err(Error::Missing(_))));
    let newer = registry.save("churn", &trained(-2.0, 200).1, at(1), SQL).unwrap().version;
    let listed = registry.versions("churn").unwrap();
    assert_eq!([&listed[0].version, &listed[1].version], [&newer, &version]);
    assert!(listed[0].manifest.is_ok() && listed[1].manifest.is_err(), "one bad version hides no other");
    for bad in ["../churn", "", ".new-x", "a/b", "Churn"] {
        assert!(matches!(registry.load("churn", bad), Err(Error::Name(_))), "{bad}");
        assert!(matches!(registry.load(bad, &version), Err(Error::Name(_))), "{bad}");
    }
    fs::write(dir.path().join("churn/current"), "../../etc\n").unwrap();
    assert!(matches!(registry.current("churn"), Err(Error::Damaged { .. })));
}

#[test]
fn what_a_crash_left_behind_does_not_stop_the_next_save() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::new(dir.path());
    let (_, trained) = trained(-2.5, 200);
    let version = registry.save("churn", &trained, at(0), SQL).unwrap().version;
    let place = dir.path().join("churn").join(&version);
    let aside = dir.path().join("churn").join(format!(".new-{version}"));
    fs::rename(&place, &aside).unwrap();
    fs::write(aside.join("model.json"), "{").unwrap();
    assert!(registry.versions("churn").unwrap().is_empty());
    registry.save("churn", &trained, at(1), SQL).unwrap();
    assert_eq!(registry.load("churn", &version).unwrap().model, trained.model);
    assert!(!aside.exists());
}

#[test]
fn old_versions_go_but_the_current_one_stays() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::new(dir.path());
    let dataset = synthetic(-2.5, 60, 1);
    let save = |i: usize| {
        let texts = [(NAMES[0].to_owned(), format!("text {i}"))].into();
        let trained = train(&dataset, &Options { texts, ..Options::default() }).unwrap();
        registry.save("churn", &trained, at(i as i64), SQL).unwrap().version
    };
    let versions: Vec<String> = (0..2).map(save).collect();
    registry.set_current("churn", &versions[0]).unwrap();
    (2..=MAX_VERSIONS + 1).for_each(|i| {
        save(i);
    });
    let kept = registry.versions("churn").unwrap();
    let trained_at = |listed: &Listed| listed.manifest.as_ref().unwrap().trained_at;
    assert_eq!(kept.len(), MAX_VERSIONS + 1);
    assert!(kept.is_sorted_by(|a, b| trained_at(a) >= trained_at(b)));
    assert_eq!(kept.last().unwrap().version, versions[0], "the current version is spared");
    assert!(matches!(registry.load("churn", &versions[1]), Err(Error::Missing(_))));
}

#[test]
fn the_stored_library_version_is_the_one_built_with() {
    let lock = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.lock")).unwrap();
    assert!(lock.contains(&format!("name = \"linfa-logistic\"\nversion = \"{LINFA_LOGISTIC_VERSION}\"")));
}
