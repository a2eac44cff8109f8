# Two stages: an ordinary Debian build with the C library linked in, then nothing but the binary, the public CA
# certificates and an unprivileged user. About 15 MB, no shell.

FROM rust:1.95-slim-bookworm AS build
# A C compiler for the TLS library (docs/decisions/0005); CA certificates for the final image.
RUN apt-get update \
 && apt-get install -y --no-install-recommends build-essential cmake ca-certificates \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY . .
ARG REVISION=""
# crt-static on the glibc target: no loader in the image. Names are resolved by hickory-resolver, so glibc's
# dlopen-based NSS, which does not work statically, is never needed. `--target` keeps the flag away from proc macros.
RUN target="$(rustc -vV | sed -n 's/^host: //p')" \
 && LB_REVISION="$REVISION" RUSTFLAGS="-C target-feature=+crt-static" \
    cargo build --locked --release --bin lb --target "$target" \
 && install -D "target/$target/release/lb" /image/bin/lb \
 && install -D /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/ca-certificates.crt \
 && install -d -m 1777 /image/tmp \
 && install -d /image/etc/lb \
 && printf 'lb:x:65532:65532::/:/bin/lb\n' > /image/etc/passwd \
 && printf 'lb:x:65532:\n' > /image/etc/group

FROM scratch
COPY --from=build /image/ /
ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
USER 65532:65532
EXPOSE 9999 9998
STOPSIGNAL SIGTERM
ENTRYPOINT ["/bin/lb"]
CMD ["run"]
