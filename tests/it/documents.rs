//! What the documents say of commands, settings and tables is what there is.

use std::{fs, path::Path, process::Command};

use tributary::{config::Config, tables};

fn document(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

fn load(text: &str) -> Config {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tributary.toml");
    fs::write(&file, text).unwrap();
    Config::load(Some(&file), dir.path()).unwrap()
}

#[test]
fn the_example_configuration_shows_the_defaults() {
    let example = document("tributary.example.toml");
    assert_eq!(format!("{:?}", load(&example)), format!("{:?}", Config::default()));
}

#[test]
fn every_setting_in_the_example_configuration_exists() {
    let is_setting = |text: &str| {
        let name = text.trim_start_matches('"').chars().take_while(|c| c.is_ascii_lowercase() || "_.".contains(*c));
        text.starts_with('[') || (name.count() > 1 && text.contains(" = "))
    };
    let example = document("tributary.example.toml");
    let all: String = example
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(text) if is_setting(text) => format!("{text}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    assert!(all.lines().filter(|line| is_setting(line)).count() > 25, "{all}");
    let config = load(&all);
    assert_eq!(config.webhooks.len(), 1);
    assert_eq!(config.alerts.len(), 1);
    assert!(config.gateway.listen.is_some() && config.pipelines.dir.is_some() && config.log.replication.is_some());
}

#[test]
fn the_readme_names_every_command() {
    let help = Command::new(env!("CARGO_BIN_EXE_tributary")).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let commands: Vec<&str> = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .filter(|command| *command != "help")
        .collect();
    assert!(commands.len() >= 9, "{help}");
    let readme = document("README.md");
    for command in commands {
        assert!(readme.contains(&format!("| `{command}")), "README.md does not describe `{command}`");
    }
}

#[test]
fn the_readme_names_every_table() {
    let readme = document("README.md");
    for table in tables::all().unwrap() {
        assert!(readme.contains(&format!("`{}`", table.name)), "README.md does not name `{}`", table.name);
    }
}
