# Builds the server, then keeps only what it needs to run.
#
#   docker build -t suricate .
#   docker run --rm -p 8080:8080 -e API_KEYS='[{"key":"a-long-random-text"}]' suricate
#
# The server listens on every address of the container and refuses to start there without API_KEYS.

FROM node:24-slim AS build
WORKDIR /app
COPY package.json package-lock.json .npmrc ./
RUN npm ci
COPY tsconfig.json tsconfig.build.json ./
COPY scripts ./scripts
COPY src ./src
RUN npm run build && npm prune --omit=dev

FROM node:24-slim
WORKDIR /app
ENV NODE_ENV=production HOST=0.0.0.0 PORT=8080
COPY --from=build /app/package.json ./package.json
COPY --from=build /app/node_modules ./node_modules
COPY --from=build /app/dist ./dist
COPY playground ./playground
COPY LICENSE ./LICENSE
# For a store that is a file; a volume that is mounted here is the user's too.
RUN mkdir /data && chown node:node /data
USER node
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s \
  CMD ["node", "-e", "fetch(`http://127.0.0.1:${process.env.PORT}/health`).then((answer) => process.exit(answer.ok ? 0 : 1), () => process.exit(1))"]
# Not through npm, which would stand between the container's SIGTERM and the server's drain.
CMD ["node", "dist/cli.js", "serve"]
