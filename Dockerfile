# The shipped program: built in the release profile, run by a user without rights.
FROM rust:1.95-bookworm AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends cmake libssl-dev zlib1g-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY src src
COPY schemas schemas
COPY pipelines pipelines
COPY views views
# Named in Cargo.toml.
COPY benches benches
RUN cargo build --release --locked --bin tributary

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates libssl3 zlib1g \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --home-dir /var/lib/tributary --create-home tributary
COPY --from=build /src/target/release/tributary /usr/local/bin/tributary
COPY LICENSE /usr/share/doc/tributary/
USER tributary
WORKDIR /var/lib/tributary
VOLUME /var/lib/tributary
EXPOSE 8080
STOPSIGNAL SIGTERM
ENTRYPOINT ["tributary"]
CMD ["run", "--data-dir", "/var/lib/tributary"]
