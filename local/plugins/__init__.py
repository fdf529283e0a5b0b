"""Stand-ins for Pulumi's provider plugins and language host, for machines that cannot reach Pulumi's download site."""
